// The log on the page: what of its rows is in the document, following the end, and the headings of steps.
//
// Only the chunks near the view hold elements for their lines; the others are as high as they were or are thought to be. So 100,000 lines cost
// a page what a few hundred do. All is drawn once a frame, and what one reads stays where it is, whatever comes or goes above and below.

import { describe, icon, newElement, paintRow } from './ansi.js';
import * as rows from './log-rows.js';
import { LOG, since, took } from './words.js';

export { append, attach, bounds, errorMarks, lastErrorLines, prepend, rowAt } from './log-rows.js';

const CHUNK_PIECES_MAX = 8000;
const END_PX = 40;            // this close to the end is at the end
const FILLS_MAX = 5;          // how often a short log is made longer without being asked
const LONG_LINES = 200;       // of a finished run, from which on what went well is folded
const STEP_MS = 3000;         // how far a step's time may be from that of its line

const $ = (id) => document.getElementById(id);
const log = $('log');

let following = true;         // whether the view stays at the end
let fresh = 0;                // rows that came since it does not
let lineHeight = 18, headHeight = 30, lastTop = 0, fills = 0;
let isScheduled = false;
let isRising = false;         // whether the reader went up last
let isTouched = false;        // whether the reader, or a link, has chosen what is in view
let needle = null, current = null, linked = null; // what to mark, in which row one is, and which one the address names
let life = null;              // what is known of the run, as `setSteps` was told
let isFolded = null;          // whether what went well was folded at first; null: that is not decided
let caret = null, card = null, shown = null;
const stale = new Set();      // rows to repaint with the next frame: once each, however many records they received
const owners = new WeakMap(); // of elements: their rows
const watchers = [];

// The text before the first line, and the way on behind the last one where lines are left out there.
const [front, more] = note(LOG.earlier, () => rows.hooks.earlier());
const [back, further] = note(LOG.later, () => rows.hooks.later());
front.prepend(document.createElement('span'));
back.hidden = true;
further.classList.add('later');

function note(words, act) {
  const [element, button] = [document.createElement('div'), document.createElement('button')];
  element.className = 'mark gap';
  button.type = 'button';
  button.textContent = words;
  button.addEventListener('click', act);
  element.append(button);
  return [element, button];
}

rows.drawBy({
  lineHeight: () => lineHeight,
  foldsOlder: () => !!isFolded && following,
  counts(row) { if (!following && back.hidden && !row.isMark) fresh += 1; },
  repaint: (row) => stale.add(row),
  redraw: (row, element) => element.replaceWith(draw(row)),
  showFold,
  schedule,
});

// `watch` is called after each frame in which the log was drawn.
export const whenDrawn = (watch) => watchers.push(watch);

export const isFollowing = () => following;

// Whether no line may come in now: one would go where somebody reads.
export const takesNone = () => rows.isFull && !following;

export const isWhole = () => more.hidden && back.hidden && !rows.isFull;

export const rowOf = (element) => owners.get(element?.closest?.('#log .row, #log .step'));

export const shownRun = () => shown;

export function clear() {
  rows.clear();
  log.replaceChildren(...(card ? [card] : []));
  fresh = fills = 0;
  isFolded = caret = linked = null;
  isTouched = isRising = false;
  following = back.hidden = true;
  tellFront('', true);
}

// ---- What is drawn -----------------------------------------------------------

function schedule() {
  if (!isScheduled) requestAnimationFrame(frame);
  isScheduled = true;
}

function frame() {
  isScheduled = false;
  for (const row of stale) if (row.element) repaint(row);
  stale.clear();
  const view = log.clientHeight;
  log.dataset.empty = life?.isAlive || !life || life.tone === 'idle' ? LOG.noneYet : LOG.none;
  if (!view || !rows.chunks.length) return watchers.forEach((watch) => watch());
  const anchor = following ? null : anchorRow();
  rows.trim(following ? Infinity : log.scrollTop - base() - view);
  if (rows.isFull && !more.hidden) tellFront(LOG.full(rows.LINES_MAX), false);
  foldAtFirst();
  insert();
  // What is drawn has another height than was thought, so that more or less of it may be near.
  for (let round = 0; round < 4; round++) {
    if (!drawNear(view)) break;
    hold(anchor);
  }
  hold(anchor);
  if (card && !following && !isTouched) log.scrollTop = 0;
  const isShort = log.scrollHeight <= view;
  if (isShort && back.hidden) following = true;
  lastTop = log.scrollTop;
  if (!following) fresh = Math.min(fresh, rows.end - rows.first);
  showCaret();
  showEnd();
  watchers.forEach((watch) => watch());
  if (!back.hidden && log.scrollHeight - lastTop < 3 * view) rows.hooks.later();
  if (more.hidden || rows.end - rows.first > rows.LINES_MAX - 5000) return;
  // Not where a card is read: it would be pushed away.
  const isNearStart = !following && isRising && lastTop < view && !(card && lastTop < card.offsetHeight);
  if (isShort ? !isFolded && fills++ < FILLS_MAX : isNearStart) rows.hooks.earlier();
}

// Brings new parts and chunks into the document.
function insert() {
  const { chunks } = rows;
  let isNewStep = false;
  if (!front.isConnected) card ? card.after(front) : log.prepend(front);
  if (back.parentNode !== log) log.append(back);
  for (let n = chunks.length - 1, next = back; n >= 0; n--) {
    const chunk = chunks[n], { part } = chunk;
    if (part.isNew) log.insertBefore(part.element, next);
    if (part.head && owners.get(part.heading) !== part.head) {
      own(part.heading, part.head);
      isNewStep = true;
    }
    part.isNew = false;
    if (chunk.isNew) part.element.insertBefore(chunk.element, chunks[n + 1]?.part === part ? chunks[n + 1].element : null);
    if (chunk.isNew || n === chunks.length - 1 && !chunk.isDrawn) chunk.element.style.height = chunk.isDrawn ? '' : `${chunk.height}px`;
    chunk.isNew = false;
    // Only here, so that between two frames the end stays where the view is.
    if (chunk.isDrawn) for (const row of body(chunk).slice(chunk.element.children.length)) chunk.element.append(draw(row));
    if (chunks[n - 1]?.part !== part) next = part.element;
  }
  if (isNewStep && life) showSteps();
}

// The rows of a chunk but a heading, which is not among its elements.
const body = ({ rows: all }) => (all[0]?.isHead ? all.slice(1) : all);

const base = () => rows.chunks[0].part.element.offsetTop;

// Visits each chunk with its place and height. Returns the height of all.
function walk(visit) {
  let y = 0, part = null;
  for (const chunk of rows.chunks) {
    if (chunk.part !== part && chunk.part.head) y += headHeight;
    ({ part } = chunk);
    const height = part.isFolded ? 0 : chunk.height;
    visit(chunk, y, height);
    y += height;
  }
  return y;
}

// Keeps the view at the end, or what is read where it was.
function hold(anchor) {
  if (following) log.scrollTop = log.scrollHeight;
  else if (anchor?.element.isConnected) {
    const off = anchor.element.getBoundingClientRect().top - anchor.top;
    // Less than a pixel is rounding, which would add up.
    if (Math.abs(off) >= 1) log.scrollTop += off;
  }
}

// Gives the chunks near the view their lines and takes them from the others. Whether anything changed.
function drawNear(view) {
  const top = following ? walk(() => {}) - view : log.scrollTop - base();
  let changed = false;
  walk((chunk, y, height) => {
    const near = !chunk.part.isFolded && y + height > top - view && y < top + 2 * view;
    if (near === chunk.isDrawn || !near && !chunk.part.isFolded && isSelected(chunk)) return;
    changed = true;
    chunk.isDrawn = near;
    chunk.element.style.height = near ? '' : `${chunk.height}px`;
    if (near) chunk.element.replaceChildren(...body(chunk).map(draw));
    else {
      chunk.element.replaceChildren();
      chunk.pieces = 0;
      for (const row of body(chunk)) Object.assign(row, { element: null, pieces: 0 });
    }
  });
  let height = 0, count = 0;
  for (const chunk of rows.chunks) {
    if (!chunk.isDrawn) continue;
    chunk.height = chunk.element.getBoundingClientRect().height;
    height += chunk.height;
    count += chunk.rows.length;
  }
  if (count && height) lineHeight = height / count;
  return changed;
}

function isSelected(chunk) {
  const selection = getSelection();
  return !selection.isCollapsed && selection.containsNode(chunk.element, true);
}

// What is first in view, and where it is: a row, or a folded step, whose heading may stick to the top in front of its place.
function anchorRow() {
  const edge = log.getBoundingClientRect().top;
  let part = null;
  for (const chunk of rows.chunks) {
    if (chunk.part !== part && chunk.part.head) {
      const { element, head } = chunk.part, box = element.getBoundingClientRect();
      if (box.top >= edge - 1 || chunk.part.isFolded && box.bottom > edge) return { element, top: box.top, number: head.number };
    }
    ({ part } = chunk);
    if (!chunk.isDrawn || chunk.element.getBoundingClientRect().bottom <= edge) continue;
    for (const row of body(chunk)) {
      const box = row.element.getBoundingClientRect();
      if (box.bottom > edge) return { element: row.element, top: box.top, number: row.number };
    }
  }
  return null;
}

function own(element, row) {
  owners.set(element, row);
  return element;
}

function draw(row) {
  row.element = newElement(row);
  if (row.isMark) return row.element;
  repaint(row);
  return own(row.element, row);
}

function repaint(row) {
  if (row.isMark) return;
  const { element, chunk } = row;
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
  now?.element?.classList.add('caret');
  caret = now;
}

function showEnd() {
  const words = takesNone() ? LOG.linesWait : fresh ? LOG.newLines(fresh) : LOG.latest;
  const text = $('latest').lastElementChild;
  if (text.textContent !== words) text.textContent = words;
  $('latest').hidden = following;
}

// ---- Steps -------------------------------------------------------------------

// What went well is folded when a finished run is opened, if there is much of it.
function foldAtFirst() {
  if (isFolded !== null || !life) return;
  isFolded = !life.isAlive && rows.end - rows.first > LONG_LINES && !isTouched;
  if (!isFolded) return;
  const last = rows.chunks.at(-1).part;
  for (const { part } of rows.chunks) {
    part.isFolded = !!part.head && (part !== last || life.tone === 'succeeded');
    showFold(part);
  }
}

function showFold(part) {
  part.element.classList.toggle('folded', part.isFolded);
  part.heading?.firstElementChild.setAttribute('aria-expanded', !part.isFolded);
}

// Folds or unfolds a step; its heading stays where it is.
function fold(part, folds) {
  const { top } = part.heading.getBoundingClientRect();
  following = false;
  isTouched = true;
  part.isFolded = folds;
  showFold(part);
  for (let round = 0; round < 3; round++) {
    const off = part.element.getBoundingClientRect().top - top;
    if (Math.abs(off) >= 1) log.scrollTop += off;
    drawNear(log.clientHeight);
  }
  following = log.scrollHeight - log.scrollTop - log.clientHeight < 2 && back.hidden;
  schedule();
}

log.addEventListener('click', ({ target }) => {
  const row = target.closest('.step button') && rowOf(target);
  if (row) fold(row.chunk.part, !row.chunk.part.isFolded);
});

// Shows how the steps went: `progress` is the API's, `isAlive` and `tone` are the run's, `now` is the server's time. Steps that are not listed
// have the times of their lines.
export function setSteps(progress, { isAlive, tone, now }) {
  life = { progress, isAlive, tone, now };
  showSteps();
  schedule();
}

function showSteps() {
  const { progress, isAlive, tone, now } = life;
  const parts = [...new Set(rows.chunks.map(({ part }) => part))].filter(({ head }) => head);
  const before = progress?.steps_before ?? 0;
  const steps = (progress?.steps ?? []).map((step, n) => ({ ...step, n: before + n + 1, at: Date.parse(step.started_at) }));
  const end = isAlive ? now : Date.parse(rows.chunks.at(-1)?.rows.findLast(({ ts }) => ts)?.ts);
  let number = null;
  for (let n = parts.length - 1; n >= 0; n--) {
    const { head, heading } = parts[n], at = Date.parse(head.ts);
    const step = steps.findLast((it) => it.name.slice(0, 190) === head.step.slice(0, 190) && Math.abs(it.at - at) < STEP_MS);
    if (step) steps.splice(steps.indexOf(step), 1);
    number = step?.n ?? (number && number > 1 ? number - 1 : isWhole() ? n + 1 : null);
    const isLast = n === parts.length - 1 && back.hidden;
    const ms = step?.ms ?? Math.max(0, (isLast ? end : Date.parse(parts[n + 1]?.head.ts)) - at);
    const time = Number.isNaN(ms) ? '' : isLast && isAlive ? since(ms) : took(ms);
    describe(heading, number, isLast ? tone : 'succeeded', isLast && time ? LOG.lasted(tone, time, isAlive) : time);
  }
}

// ---- What others ask for -----------------------------------------------------

export function setRun({ id }) {
  shown = id;
  schedule();
}

// Puts a card in front of the log, or takes it away. A finished run that was just opened is shown from its card on.
export function setCard(element) {
  if (element === card) return;
  card?.remove();
  card = element;
  if (!card) return schedule();
  log.prepend(card);
  if (life && !life.isAlive && !isTouched) {
    following = false;
    log.scrollTop = lastTop = 0;
  }
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
  if (hasMore) [following, fresh] = [false, 0];
  schedule();
}

// Reveals the row that holds the record of this id, or else the first one behind it, as what the address names. Returns it.
export function showLine(id) {
  const [before, row] = [linked, rows.rowOfRecord(id)];
  linked = row;
  for (const it of [before, row]) if (it?.element) repaint(it);
  if (row) reveal(row);
  return row;
}

// Marks what matches in every line, and the row that one is in.
export function mark(regex, row) {
  needle = regex;
  current = row;
  for (const { isDrawn, part, rows: all } of rows.chunks) if (isDrawn || part.head === all[0]) (isDrawn ? all : [part.head]).forEach(repaint);
  schedule();
}

export const currentRow = () => current ?? linked;

export function firstInView() {
  return anchorRow()?.number ?? rows.first;
}

// Where each of `list` is, in order, as parts of the height of the log; what is folded is at its heading.
export function placesOf(list) {
  if (!rows.chunks.length) return [];
  const [height, top, places] = [log.scrollHeight, base(), []];
  let n = 0;
  walk((chunk, y, tall) => {
    for (const begin = chunk.rows[0].number; n < list.length && list[n].number < begin + chunk.rows.length; n++) {
      places.push((top + y + tall * Math.max(0, list[n].number - begin) / chunk.rows.length) / height);
    }
  });
  return places;
}

// Brings a row into the middle of the view, where it stays, and opens its step.
export function reveal(row) {
  following = false;
  isTouched = true;
  const { part } = row.chunk;
  if (part.isFolded && !row.isHead) {
    part.isFolded = false;
    showFold(part);
  }
  insert();
  const element = () => (row.isHead ? part.element : row.element);
  walk((chunk, y) => {
    if (chunk === row.chunk) log.scrollTop = base() + y - log.clientHeight / 3;
  });
  drawNear(log.clientHeight);
  for (let round = 0; round < 3 && element(); round++) {
    const [box, view] = [element().getBoundingClientRect(), log.getBoundingClientRect()];
    log.scrollTop += box.top - view.top - (view.height - (row.isHead ? headHeight : box.height)) / 2;
    drawNear(log.clientHeight);
  }
  frame();
}

export function goToEnd() {
  following = true;
  fresh = 0;
  schedule();
  rows.hooks.atEnd();
}

export function goToTop() {
  following = false;
  log.scrollTop = 0;
}

export function stay() {
  following = false;
  lastTop = log.scrollTop;
  isTouched = true;
  schedule();
}

// Each line may have another height now.
export function remeasure() {
  if (!rows.chunks.length) return;
  const anchor = following ? null : anchorRow();
  const heading = log.querySelector('.step');
  if (heading) headHeight = heading.getBoundingClientRect().height;
  insert();
  drawNear(log.clientHeight);
  for (const chunk of rows.chunks) {
    if (chunk.isDrawn) continue;
    chunk.height = body(chunk).length * lineHeight;
    chunk.element.style.height = `${chunk.height}px`;
  }
  hold(anchor);
  schedule();
}

log.addEventListener('scroll', () => {
  const top = log.scrollTop;
  const isAtEnd = log.scrollHeight - top - log.clientHeight < END_PX;
  // Only who goes down to the end or up from it; what comes and goes moves nobody.
  if (top > lastTop && isAtEnd && !following && back.hidden) goToEnd();
  else if (top < lastTop - 1 && !isAtEnd) following = false;
  if (Math.abs(top - lastTop) > 1) [isRising, isTouched] = [top < lastTop, true];
  lastTop = top;
  schedule();
}, { passive: true });

$('latest').append(icon('down'), document.createElement('span'));
$('latest').addEventListener('click', () => {
  log.focus({ preventScroll: true });
  goToEnd();
});

new ResizeObserver(remeasure).observe(log);

// The tools, keys and the track come behind the lines.
requestAnimationFrame(() => import('./log-tools.js').catch(console.error));
