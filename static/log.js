// The log on the page: what of its rows is in the document, following the end, and the headings of steps.
//
// Only the chunks near the view hold elements for their lines; the others are as high as they were or are thought to be. So 100,000 lines cost
// a page what a few hundred do. All is drawn once a frame, and what one reads stays where it is, whatever comes or goes above and below.

import { $, describe, icon, make, newElement, paintRow, setText } from './ansi.js';
import * as rows from './log-rows.js';
import { LOG, since, took } from './words.js';

export { append, attach, bounds, errorMarks, lastErrorLines, lower, prepend, rowAt, rowOfRecord } from './log-rows.js';

const CHUNK_PIECES_MAX = 8000;
// This close to the end is at the end.
const END_PX = 40;
// How often a short log is made longer without being asked.
const FILLS_MAX = 5;
// Of a finished run, from which on what went well is folded.
const LONG_LINES = 200;
// How far a step's time may be from that of its line.
const STEP_MS = 3000;
// How high a mark in the scroll bar is.
const MARK_PX = 3;

const log = $('log'), latest = $('latest');

// Whether the view stays at the end, and how many rows came since it does not.
let following = true, fresh = 0;
// What a line is thought to take.
export let lineHeight = 18;
let headHeight = 30, lastTop = 0, fills = 0, isScheduled = false;
// Whether the reader went up last, and whether the reader or a link has chosen what is in view.
let isRising = false, isTouched = false;
// What to mark, in which row one is, and which one the address names.
let needle = null, current = null, linked = null;
// What is known of the run, as `setSteps` was told.
let life = null;
// Whether what went well was folded at first; null: that is not decided.
let isFolded = null;
let caret = null, card = null;
// The id of the run that is shown.
export let shown = null;
// Rows to repaint with the next frame: once each, however many records they received.
const stale = new Set();
// Of elements: their rows.
const owners = new WeakMap();
const watchers = [];
const track = make('div', { id: 'log-track' });
log.after(track);
let tracked = '';
// The row that the search, the address, a key or a mark led to last.
export let chosen = null;

// The text before the first line, and the way on behind the last one where lines are left out there.
const [front, back] = ['earlier', 'later'].map((way) => make('div', { className: 'mark gap' }, make('span'),
  make('button', { type: 'button', textContent: LOG[way], onclick: () => rows.hooks[way]() })));
const more = front.lastChild;
back.hidden = true;

// What log-rows.js asks for: whether steps in front are folded when they come, to count a row that came, to repaint one, and to draw one anew.
export const foldsOlder = () => isFolded && following;

export function counts(row) {
  if (!following && back.hidden && !row.isMark) fresh += 1;
}

export const repaintSoon = (row) => stale.add(row);

export const redraw = (row) => row.element?.replaceWith(draw(row));

// `watch` is called after each frame in which the log was drawn.
export const whenDrawn = (watch) => watchers.push(watch);

export const isFollowing = () => following;

// Whether no line may come in now: one would go where somebody reads.
export const takesNone = () => rows.isFull && !following;

export const isWhole = () => more.hidden && back.hidden && !rows.isFull;

export const rowOf = (element) => owners.get(element.closest('#log .row, #log .step'));

export function clear() {
  rows.clear();
  log.replaceChildren();
  if (card) log.append(card);
  fresh = fills = 0;
  isFolded = caret = linked = chosen = null;
  isTouched = isRising = false;
  following = back.hidden = true;
  tellFront('', true);
}

// ---- What is drawn -----------------------------------------------------------

export function schedule() {
  if (!isScheduled) requestAnimationFrame(frame);
  isScheduled = true;
}

function frame() {
  isScheduled = false;
  for (const row of stale) if (row.element) repaint(row);
  stale.clear();
  const view = log.clientHeight;
  log.dataset.empty = life && !life.isAlive && life.tone !== 'idle' ? LOG.none : LOG.noneYet;
  if (view && rows.chunks.length) drawAll(view);
  for (const watch of watchers) watch();
}

function drawAll(view) {
  foldAtFirst();
  // A finished run that was just opened is shown from its card on.
  const isOpening = card && !isTouched && life && !life.isAlive;
  if (isOpening) following = false;
  const anchor = following ? null : anchorRow();
  rows.trim(following ? Infinity : log.scrollTop - base() - view);
  if (rows.isFull && !more.hidden) tellFront(LOG.full(rows.LINES_MAX), false);
  insert();
  // What is drawn has another height than was thought, so that more or less of it may be near.
  for (let round = 0; round < 4 && drawNear(view); round++) hold(anchor);
  hold(anchor);
  if (isOpening) log.scrollTop = 0;
  const isShort = log.scrollHeight <= view;
  following ||= isShort && back.hidden;
  lastTop = log.scrollTop;
  fresh = following ? 0 : Math.min(fresh, rows.end - rows.first);
  showCaret();
  showTrack(view);
  setText(latest.lastChild, takesNone() ? LOG.linesWait : fresh ? LOG.newLines(fresh) : LOG.latest);
  latest.hidden = following;
  if (!back.hidden && log.scrollHeight - lastTop < 3 * view) rows.hooks.later();
  if (more.hidden || rows.end - rows.first > rows.LINES_MAX - 5000) return;
  // Not where a card is read: it would be pushed away.
  const isNearStart = !following && isRising && lastTop < view && !(lastTop < card?.offsetHeight);
  if (isShort ? !isFolded && fills++ < FILLS_MAX : isNearStart) rows.hooks.earlier();
}

// Brings new parts and chunks into the document, and new rows into those that are drawn. Only here, so that between two frames the end stays
// where the view is.
function insert() {
  const put = (parent, element, next) => {
    if (element.parentNode !== parent || element.nextSibling !== next) parent.insertBefore(element, next);
  };
  let part = null, isNewStep = false, below, next = back;
  if (!front.isConnected) card ? card.after(front) : log.prepend(front);
  if (back.parentNode !== log) log.append(back);
  for (const chunk of [...rows.chunks].reverse()) {
    if (chunk.part !== part) {
      below = null;
      if (part) next = part.element;
      ({ part } = chunk);
      put(log, part.element, next);
      isNewStep ||= part.head && !owners.has(part.heading);
      if (part.head) owners.set(part.heading, part.head);
    }
    put(part.element, chunk.element, below);
    below = chunk.element;
    if (chunk.isDrawn) chunk.element.append(...body(chunk).slice(chunk.element.children.length).map(draw));
    setHeight(chunk);
  }
  if (isNewStep && life) showSteps();
}

function setHeight(chunk) {
  const height = chunk.isDrawn ? '' : `${chunk.height}px`;
  if (chunk.set !== height) chunk.element.style.height = chunk.set = height;
}

// The rows of a chunk but a heading, which is not among its elements.
const body = ({ rows: all }) => all.slice(all[0].isHead ? 1 : 0);

const base = () => rows.chunks[0].part.element.offsetTop;

// Visits each chunk with its place and height. Returns the height of all.
function walk(visit) {
  let y = 0;
  for (const chunk of rows.chunks) {
    if (chunk.rows[0].isHead) y += headHeight;
    const height = chunk.part.isFolded ? 0 : chunk.height;
    visit?.(chunk, y, height);
    y += height;
  }
  return y;
}

// Keeps the view at the end, or what is read where it was.
function hold(anchor) {
  if (following) log.scrollTop = log.scrollHeight;
  else if (anchor?.element.isConnected) shift(place(anchor).top - anchor.top);
}

function shift(off) {
  // Less than a pixel is rounding, which would add up.
  if (Math.abs(off) >= 1) log.scrollTop += off;
}

// Gives the chunks near the view their lines and takes them from the others. Whether anything changed.
function drawNear(view = log.clientHeight) {
  const top = following ? walk() - view : log.scrollTop - base(), selection = getSelection();
  let isChanged = false, height = 0, count = 0;
  walk((chunk, y, tall) => {
    const isNear = !chunk.part.isFolded && y + tall > top - view && y < top + 2 * view;
    if (isNear === !!chunk.isDrawn) return;
    if (!isNear && !chunk.part.isFolded && !selection.isCollapsed && selection.containsNode(chunk.element, true)) return;
    isChanged = true;
    chunk.isDrawn = isNear;
    chunk.pieces = 0;
    for (const row of body(chunk)) Object.assign(row, { element: null, pieces: 0 });
    chunk.element.replaceChildren(...(isNear ? body(chunk).map(draw) : []));
    setHeight(chunk);
  });
  for (const chunk of rows.chunks) {
    if (!chunk.isDrawn) continue;
    chunk.height = place(chunk).height;
    height += chunk.height;
    count += chunk.rows.length;
  }
  lineHeight = height / count || lineHeight;
  return isChanged;
}

const place = ({ element }) => element.getBoundingClientRect();

// What is first in view, and where it is: a row, or a folded step, whose heading may stick to the top in front of its place.
function anchorRow() {
  const edge = place({ element: log }).top;
  for (const { part, rows: all, element: { lastChild: last }, isDrawn } of rows.chunks) {
    const { top, bottom } = all[0].isHead ? place(part) : {};
    if (top >= edge - 1 || part.isFolded && bottom > edge) return { element: part.element, top, row: part.head };
    const row = isDrawn && last && place({ element: last }).bottom > edge && all.find((it) => !it.isHead && place(it).bottom > edge);
    if (row) return { element: row.element, top: place(row).top, row };
  }
  return null;
}

function draw(row) {
  row.element = newElement(row);
  owners.set(row.element, row);
  repaint(row);
  return row.element;
}

function repaint(row) {
  const { element, chunk } = row;
  if (row.isMark) return;
  element.classList.toggle('current', row === current);
  element.classList.toggle('to', row === linked);
  if (row.isHead) return;
  element.classList.toggle('error', !!row.bad);
  chunk.pieces -= row.pieces ?? 0;
  row.pieces = paintRow(row, CHUNK_PIECES_MAX - chunk.pieces, needle);
  chunk.pieces += row.pieces;
}

// A line of a run that is alive, and that has no end yet.
function showCaret() {
  const last = rows.chunks.at(-1).rows.at(-1);
  const now = life?.isAlive && back.hidden && last === rows.open[last.stream] ? last : null;
  if (caret !== now) caret?.element?.classList.remove('caret');
  caret = now;
  caret?.element?.classList.add('caret');
}

// Puts marks into the scroll bar: one for each place that can be told from the next; what is folded is at its heading.
function showTrack(view) {
  const { errors } = rows;
  if (!errors.length && !track.firstChild) return;
  const height = log.scrollHeight, top = base(), found = new Map();
  const key = [errors.length, errors[0]?.number, height, view].join();
  if (key === tracked) return;
  tracked = key;
  let n = 0;
  walk(({ rows: all }, y, tall) => {
    const [{ number: begin }] = all;
    for (let row; (row = errors[n])?.number < begin + all.length; n++) {
      const place = top + y + tall * Math.max(0, row.number - begin) / all.length;
      found.set(MARK_PX * Math.floor(place / height * view / MARK_PX), row);
    }
  });
  track.replaceChildren(...[...height > view ? found : []].map(([y, row]) => {
    const mark = make('i', { onclick: () => reveal(row) });
    mark.style.top = `${y}px`;
    return mark;
  }));
}

// ---- Steps -------------------------------------------------------------------

// What went well is folded when a finished run is opened, if there is much of it.
function foldAtFirst() {
  if (isFolded !== null || !life) return;
  isFolded = !life.isAlive && rows.end - rows.first > LONG_LINES && !isTouched;
  const last = rows.chunks.at(-1).part;
  for (const { part } of rows.chunks) {
    part.isFolded = isFolded && !!part.head && (part !== last || life.tone === 'succeeded');
    showFold(part);
  }
}

export function showFold({ element, heading, isFolded: isShut = false }) {
  element.classList.toggle('folded', isShut);
  heading?.firstChild.setAttribute('aria-expanded', !isShut);
}

// Folds or unfolds a step; its heading stays where it is.
log.addEventListener('click', ({ target }) => {
  const row = target.closest('.step button') && rowOf(target);
  if (!row) return;
  const { part } = row.chunk, { top } = place(row);
  stay();
  part.isFolded = !part.isFolded;
  showFold(part);
  for (let round = 0; round < 3; round++) {
    shift(place(part).top - top);
    drawNear();
  }
  following = distance() < 2 && back.hidden;
});

// How far the view is from the end.
const distance = () => log.scrollHeight - log.scrollTop - log.clientHeight;

// Shows how the steps went: `progress` is the API's, `isAlive` and `tone` are the run's, `now` is the server's time. Steps that are not listed
// have the times of their lines.
export function setSteps(progress, given) {
  life = { progress, ...given };
  // What one saw live stays as it is when it ends.
  isTouched ||= life.isAlive;
  showSteps();
  schedule();
}

function showSteps() {
  const { progress, isAlive, tone, now } = life;
  const heads = rows.chunks.map(({ rows: [row] }) => row).filter(({ isHead }) => isHead);
  const steps = (progress?.steps ?? []).map((step, n) => ({ ...step, n: progress.steps_before + n + 1 }));
  let number = null, end = isAlive ? now : Date.parse(rows.chunks.at(-1)?.rows.findLast(({ ts }) => ts)?.ts);
  heads.reverse().forEach((head, fromEnd) => {
    const at = Date.parse(head.ts), isLast = !fromEnd && back.hidden;
    const n = steps.findLastIndex((it) => it.name.slice(0, 190) === head.step.slice(0, 190) && Math.abs(Date.parse(it.started_at) - at) < STEP_MS);
    const [step] = n < 0 ? [] : steps.splice(n);
    number = step?.n ?? (number > 1 ? number - 1 : isWhole() ? heads.length - fromEnd : null);
    const ms = step?.ms ?? Math.max(0, (!fromEnd && !isLast ? NaN : end) - at);
    const time = Number.isNaN(ms) ? '' : isLast && isAlive ? since(ms) : took(ms);
    describe(head.element, number, isLast ? tone : 'succeeded', isLast && time ? LOG.lasted(tone, time, isAlive) : time);
    end = at;
  });
}

// ---- What others ask for -----------------------------------------------------

export function setRun({ id }) {
  if (id !== shown) life = null;
  shown = id;
  schedule();
}

// Puts a card in front of the log, or takes it away.
export function setCard(element) {
  if (element === card) return;
  card?.remove();
  card = element;
  if (card) log.prepend(card);
  schedule();
}

// What stands in front of the first line, and whether there may be earlier ones.
export function tellFront(text, hasMore) {
  front.firstChild.textContent = text;
  more.hidden = !hasMore;
  front.classList.toggle('quiet', !hasMore);
  schedule();
}

// Whether lines are left out between the last one and the log's end. Then the view doesn't follow the end.
export function tellBack(hasMore) {
  back.hidden = !hasMore;
  if (hasMore) following = false;
  schedule();
}

// Reveals the row that holds the record of this id, or else the first one behind it, as what the address names.
export function showLine(id) {
  linked = rows.rowOfRecord(id);
  repaintAll();
  if (linked) reveal(linked);
}

// Marks what matches in every line, and the row that one is in.
export function mark(regex, row) {
  [needle, current] = [regex, row];
  repaintAll();
}

function repaintAll() {
  for (const chunk of rows.chunks) for (const row of chunk.rows) if (row.element) stale.add(row);
  schedule();
}

export const firstInView = () => anchorRow()?.row.number ?? rows.first;

// Brings a row into the middle of the view, where it stays, and opens its step.
export function reveal(row) {
  chosen = row;
  stay();
  const { part } = row.chunk;
  if (!row.isHead) part.isFolded = false;
  showFold(part);
  insert();
  walk((chunk, y) => {
    if (chunk === row.chunk) log.scrollTop = base() + y - log.clientHeight / 3;
  });
  for (let round = 0; round < 4; round++) {
    drawNear();
    if (!row.element) break;
    const box = place(row.isHead ? part : row), view = place({ element: log });
    log.scrollTop += box.top - view.top - (view.height - (row.isHead ? headHeight : box.height)) / 2;
  }
  frame();
}

export function goToEnd() {
  following = isTouched = true;
  schedule();
  rows.hooks.atEnd();
}

export function goToTop() {
  stay();
  log.scrollTop = 0;
}

export function stay() {
  following = false;
  isTouched = true;
  lastTop = log.scrollTop;
  schedule();
}

// Each line may have another height now.
export function remeasure() {
  if (!rows.chunks.length) return;
  const anchor = anchorRow();
  headHeight = log.querySelector('.step')?.offsetHeight ?? headHeight;
  insert();
  drawNear();
  for (const chunk of rows.chunks) {
    if (!chunk.isDrawn) chunk.height = body(chunk).length * lineHeight;
    setHeight(chunk);
  }
  hold(anchor);
  schedule();
}

log.addEventListener('scroll', () => {
  const top = log.scrollTop, isAtEnd = distance() < END_PX;
  // Only who goes down to the end or up from it; what comes and goes moves nobody.
  if (top > lastTop && isAtEnd && !following && back.hidden) goToEnd();
  else if (top < lastTop - 1 && !isAtEnd) following = false;
  if (Math.abs(top - lastTop) > 1) {
    isRising = top < lastTop;
    isTouched ||= !following;
  }
  lastTop = top;
  schedule();
}, { passive: true });

latest.append(icon('down'), make('span'));
latest.addEventListener('click', () => {
  log.focus({ preventScroll: true });
  goToEnd();
});

new ResizeObserver(remeasure).observe(log);
