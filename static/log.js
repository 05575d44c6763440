// The log on the page: which of its rows are in the document, following the end, and the headings of steps.
//
// Only chunks near the view contain elements for their lines; the others have the height that they had or are estimated to have. So 100,000 lines
// cost a page as much as a few hundred. Everything is drawn once a frame, and the lines that the user is reading stay in place when lines above or
// below them are added or removed.

import { describe, newElement, paintRow } from './ansi.js';
import { $, el, icon, setText } from './dom.js';
import { chunks, clearRows, endNumber, errorRows, firstNumber, isLogFull, LINES_MAX, logHooks, openRows, rowOfRecord, trimRows } from './log-rows.js';
import { LOG, since, took } from './words.js';

const CHUNK_PIECES_MAX = 8000;
// About how many characters of rows a frame draws. The next frame continues, so that the page handles clicks in between.
const FRAME_CHARS = 3e4;
// Scrolling down to within END_PX of the end starts following it. Within NEAR_END_PX the end counts as visible, so scrolling up less than that does
// not end the following. The button to the end stays hidden until the view ends LATEST_PX below a card.
const END_PX = 8, NEAR_END_PX = 40, LATEST_PX = 60;
// How many times a log that does not fill the view loads earlier lines by itself.
const FILLS_MAX = 5;
// Successful steps of a finished run are folded if it has more lines than this.
const LONG_LINES = 200;
// The greatest difference between a step's time and the time of its line.
const STEP_MS = 3000;
// The height of a mark in the scroll bar.
const MARK_PX = 3;

export const log = $('log');
const toLatest = $('latest');

// Whether the view follows the end, and how many rows have come since it stopped following.
export let isFollowingEnd = true;
let freshRows = 0;
// The estimated height of a line.
export let lineHeight = 18;
let headHeight = 30, lastTop = 0, fills = 0, isScheduled = false;
// Whether the user scrolled up last, and whether the user or a link has chosen the part in view.
let isRising = false, isPlaceChosen = false;
// The expression to mark, the row of the current match, and the row that the address names.
let needle = null, currentRow = null, linkedRow = null;
// The run's state and progress, from `setSteps`.
let runLife = null;
// Whether successful steps were folded at first; null: not decided yet.
export let isFolded = null;
let caret = null, cardElement = null, isCardLast = false;
// The id of the run that is shown.
export let shownRun = null;
// How many characters may still be drawn in this frame.
let room = 0;
// Rows to repaint in the next frame, once each, however many records they have received.
export const staleRows = new Set();
// The row of each element.
const owners = new WeakMap();
const trackBox = el('div', { id: 'log-track' });
log.after(trackBox);
let trackKey = '';
// The row that the search, the address, a key or a mark jumped to last.
export let chosenRow = null;

// The text before the first line, and the way to the lines that are left out after the last one.
const [frontMark, backMark] = ['earlier', 'later'].map((way) => el('div', 'mark gap', el('span'),
  el('button', { type: 'button', onclick: () => logHooks[way]() }, LOG[way])));
const earlierButton = frontMark.lastChild;
backMark.hidden = true;

// Counts a row that was received.
export function countRow(row) {
  if (!isFollowingEnd && backMark.hidden && !row.isMark) freshRows += 1;
}

// Returns whether no line can be added: the page would have to remove lines that the user may be reading.
export const takesNone = () => isLogFull && !isFollowingEnd;

export const isWhole = () => earlierButton.hidden && backMark.hidden && !isLogFull;

export const rowOf = (element) => owners.get(element.closest('#log .row, #log .step'));

export function clearLog() {
  clearRows();
  log.replaceChildren();
  isCardLast = false;
  placeCard();
  freshRows = fills = 0;
  isFolded = caret = linkedRow = chosenRow = null;
  isPlaceChosen = isRising = false;
  isFollowingEnd = backMark.hidden = true;
  tellFront('', true);
}

// ---- What is drawn -----------------------------------------------------------

export function drawSoon() {
  if (!isScheduled) requestAnimationFrame(drawFrame);
  isScheduled = true;
}

function drawFrame() {
  isScheduled = false;
  for (const row of staleRows) if (row.element) paintNow(row);
  staleRows.clear();
  const view = log.clientHeight;
  log.dataset.empty = runLife && !runLife.isAlive && runLife.tone !== 'idle' ? LOG.none : runLife?.isBuffered ? LOG.buffered : LOG.noneYet;
  room = FRAME_CHARS;
  if (view && chunks.length) drawAll(view);
  logHooks.drawn();
}

function drawAll(view) {
  foldAtFirst();
  // A finished run that was just opened is shown from its card on.
  const isOpening = cardElement && !isPlaceChosen && runLife && !runLife.isAlive;
  if (isOpening) isFollowingEnd = false;
  const anchor = isFollowingEnd ? null : anchorRow();
  trimRows(isFollowingEnd ? Infinity : log.scrollTop - logTop() - view);
  if (isLogFull && !earlierButton.hidden) tellFront(LOG.full(LINES_MAX), false);
  insertParts();
  // The height of drawn rows differs from the estimate, so other chunks may be near the view.
  for (let round = 0; round < 4 && drawNear(view); round++) holdPlace(anchor);
  holdPlace(anchor);
  if (isOpening) log.scrollTop = 0;
  const isShort = log.scrollHeight <= view;
  isFollowingEnd ||= isShort && backMark.hidden;
  lastTop = log.scrollTop;
  freshRows = isFollowingEnd ? 0 : Math.min(freshRows, endNumber - firstNumber);
  showCaret();
  showTrack(view);
  setText(toLatest.lastChild, takesNone() ? LOG.linesWait : freshRows ? LOG.newLines(freshRows) : LOG.latest);
  // The button must not cover a card, which may have buttons there.
  const seen = lastTop + view - cardElement?.offsetTop;
  toLatest.hidden = isFollowingEnd || seen > 0 && seen < cardElement.offsetHeight + LATEST_PX
    || !runLife?.isAlive && backMark.hidden && pxToEnd() < NEAR_END_PX;
  if (!backMark.hidden && log.scrollHeight - lastTop < 3 * view) logHooks.later();
  if (earlierButton.hidden || endNumber - firstNumber > LINES_MAX - 5000) return;
  // Earlier lines would push the card away while the user is reading it.
  const isNearStart = !isFollowingEnd && isRising && lastTop < view && (isCardLast || !(lastTop < cardElement?.offsetHeight));
  if (isShort ? !isFolded && fills++ < FILLS_MAX : isNearStart) logHooks.earlier();
}

// Adds new parts and chunks to the document, and new rows to the chunks that are drawn. This happens nowhere else, so that the view stays at the
// end between two frames.
function insertParts() {
  const put = (parent, element, next) => {
    if (element.parentNode !== parent || element.nextSibling !== next) parent.insertBefore(element, next);
  };
  let part = null, isNewStep = false, below, next = backMark;
  if (!frontMark.isConnected) {
    log.prepend(frontMark);
    log.append(backMark);
    placeCard();
  }
  for (const chunk of [...chunks].reverse()) {
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
    fill(chunk);
  }
  if (isNewStep && runLife) showHeadings();
}

// Adds the missing rows to a chunk near the view, as many as this frame may draw.
function fill(chunk) {
  if (chunk.isDrawn) for (const row of rowsOf(chunk, chunk.element.childElementCount)) {
    if (room < 0) drawSoon();
    else chunk.element.append(drawRow(row));
    room -= row.text.length;
  }
  setHeight(chunk);
}

function setHeight(chunk) {
  const height = chunk.element.firstChild ? '' : `${chunk.height}px`;
  if (chunk.set !== height) chunk.element.style.height = chunk.set = height;
}

// Returns the rows of a chunk, from the element with index `from` on. Headings are not included.
const rowsOf = ({ rows: all }, from = 0) => all.slice(from + (all[0].isHead ? 1 : 0));

const logTop = () => chunks[0].part.element.offsetTop;

// Visits each chunk with its position and height. Returns the total height.
function walkChunks(visit) {
  let y = 0;
  for (const chunk of chunks) {
    if (chunk.rows[0].isHead) y += headHeight;
    const height = chunk.part.isFolded ? 0 : chunk.height;
    visit?.(chunk, y, height);
    y += height;
  }
  return y;
}

// Keeps the view at the end, or the anchor where it was.
function holdPlace(anchor) {
  if (isFollowingEnd) log.scrollTop = log.scrollHeight;
  else if (anchor?.element.isConnected) shiftBy(boxOf(anchor).top - anchor.top);
}

function shiftBy(off) {
  // Differences below one pixel are rounding errors, which would add up.
  if (Math.abs(off) >= 1) log.scrollTop += off;
}

// Adds elements to the chunks near the view and removes them from the others. Returns whether anything changed.
function drawNear(view = log.clientHeight) {
  const top = isFollowingEnd ? walkChunks() - view : log.scrollTop - logTop(), selection = getSelection();
  const changed = [];
  let height = 0, count = 0;
  walkChunks((chunk, y, tall) => {
    const isNear = !chunk.part.isFolded && y + tall > top - view && y < top + 2 * view;
    if (isNear === !!chunk.isDrawn) return;
    if (isNear || chunk.part.isFolded || selection.isCollapsed || !selection.containsNode(chunk.element, true)) changed.push(chunk);
  });
  // This is a second loop because reading the selection after a change would lay out the whole log.
  for (const chunk of changed) {
    chunk.isDrawn = !chunk.isDrawn;
    chunk.pieces = 0;
    for (const row of rowsOf(chunk)) Object.assign(row, { element: null, pieces: 0 });
    chunk.element.replaceChildren();
    fill(chunk);
  }
  for (const chunk of chunks) {
    if (!chunk.isDrawn) continue;
    chunk.height = boxOf(chunk).height;
    height += chunk.height;
    count += chunk.element.childElementCount;
  }
  lineHeight = height / count || lineHeight;
  return changed.length;
}

const boxOf = ({ element }) => element.getBoundingClientRect();

// Returns what is first in view and its position: a row, or a folded step, whose heading may stick to the top of the view.
function anchorRow() {
  const edge = log.getBoundingClientRect().top;
  for (const { part, rows: all, element: { lastChild: last }, isDrawn } of chunks) {
    const { top, bottom } = all[0].isHead ? boxOf(part) : {};
    if (top >= edge - 1 || part.isFolded && bottom > edge) return { element: part.element, top, row: part.head };
    const row = isDrawn && last && boxOf({ element: last }).bottom > edge && all.find((it) => !it.isHead && boxOf(it).bottom > edge);
    if (row) return { element: row.element, top: boxOf(row).top, row };
  }
  return null;
}

export function drawRow(row) {
  row.element = newElement(row);
  owners.set(row.element, row);
  paintNow(row);
  return row.element;
}

function paintNow(row) {
  const { element, chunk } = row;
  if (row.isMark) return;
  element.classList.toggle('current', row === currentRow);
  element.classList.toggle('to', row === linkedRow);
  if (row.isHead) return;
  element.classList.toggle('error', !!row.bad);
  chunk.pieces -= row.pieces ?? 0;
  row.pieces = paintRow(row, CHUNK_PIECES_MAX - chunk.pieces, needle);
  chunk.pieces += row.pieces;
}

// Puts the caret at the last line of a live run if that line is not complete.
function showCaret() {
  const last = chunks.at(-1).rows.at(-1);
  const now = runLife?.isAlive && backMark.hidden && last === openRows[last.stream] ? last : null;
  if (caret !== now) caret?.element?.classList.remove('caret');
  caret = now;
  caret?.element?.classList.add('caret');
}

// Puts marks of errors into the scroll bar, one for each position that can be distinguished. Rows of a folded step are marked at its heading.
function showTrack(view) {
  const height = log.scrollHeight, top = logTop(), found = new Map();
  const key = [errorRows.length, errorRows[0]?.number, height, view].join();
  if (key === trackKey) return;
  trackKey = key;
  let n = 0;
  walkChunks(({ rows: all }, y, tall) => {
    const [{ number: begin }] = all;
    for (let row; (row = errorRows[n])?.number < begin + all.length; n++) {
      const place = top + y + tall * Math.max(0, row.number - begin) / all.length;
      found.set(MARK_PX * Math.floor(place / height * view / MARK_PX), row);
    }
  });
  trackBox.replaceChildren(...[...height > view ? found : []].map(([y, row]) => {
    const mark = el('i', { onclick: () => reveal(row) });
    mark.style.top = `${y}px`;
    return mark;
  }));
}

// ---- Steps -------------------------------------------------------------------

// Folds the successful steps of a finished run that is opened, if it has many lines.
function foldAtFirst() {
  if (isFolded !== null || !runLife) return;
  isFolded = !runLife.isAlive && endNumber - firstNumber > LONG_LINES && !isPlaceChosen;
  const last = chunks.at(-1).part;
  for (const { part } of chunks) {
    part.isFolded = isFolded && !!part.head && (part !== last || runLife.tone === 'succeeded');
    showFold(part);
  }
}

export function showFold({ element, heading, isFolded: isShut = false }) {
  element.classList.toggle('folded', isShut);
  if (heading) heading.firstChild.ariaExpanded = !isShut;
}

// Folds or unfolds a step. Its heading stays in place.
log.addEventListener('click', ({ target }) => {
  const row = target.closest('.step button') && rowOf(target);
  if (!row) return;
  const { part } = row.chunk, { top } = boxOf(row);
  stayHere();
  part.isFolded = !part.isFolded;
  showFold(part);
  for (let round = 0; round < 3; round++) {
    shiftBy(boxOf(part).top - top);
    drawNear();
  }
  isFollowingEnd = pxToEnd() < 2 && backMark.hidden;
});

// Returns the distance between the view and the end.
const pxToEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight;

// Shows the result of each step. `progress` is the API's, `isAlive` and `tone` are the run's, and `now` is the server's time. Steps that are not
// listed get the times of their lines.
export function setSteps(progress, given) {
  runLife = { progress, ...given };
  // A run that the user watched keeps its view when it ends.
  isPlaceChosen ||= runLife.isAlive;
  isCardLast ||= runLife.isAlive;
  showHeadings();
  drawSoon();
}

function showHeadings() {
  const { progress, isAlive, tone, now } = runLife;
  const heads = chunks.map(({ rows: [row] }) => row).filter(({ isHead }) => isHead);
  const steps = (progress?.steps ?? []).map((step, n) => ({ ...step, n: progress.steps_before + n + 1 }));
  let number = null, end = isAlive ? now : Date.parse(chunks.at(-1)?.rows.findLast(({ ts }) => ts)?.ts);
  heads.reverse().forEach((head, fromEnd) => {
    const at = Date.parse(head.ts), isLast = !fromEnd && backMark.hidden;
    const n = steps.findLastIndex((it) => it.name.slice(0, 190) === head.step.slice(0, 190) && Math.abs(Date.parse(it.started_at) - at) < STEP_MS);
    const [step] = n < 0 ? [] : steps.splice(n);
    number = step?.n ?? (number > 1 ? number - 1 : isWhole() ? heads.length - fromEnd : null);
    const ms = step?.ms ?? Math.max(0, (!fromEnd && !isLast ? NaN : end) - at);
    const time = Number.isNaN(ms) ? '' : isLast && isAlive ? since(ms) : took(ms);
    describe(head.element, number, isLast ? tone : 'succeeded', isLast && time ? LOG.lasted(tone, time, isAlive) : time);
    end = at;
  });
}

// ---- Called by other parts -----------------------------------------------------

export function setRun({ id }) {
  if (id !== shownRun) runLife = null;
  shownRun = id;
  drawSoon();
}

// Places the card that `update` returns, or removes it. The lines that the user is reading stay in place, even if the card's height changes.
export function setCard(update) {
  // If no position was chosen, the user is reading the card itself.
  const anchor = isFollowingEnd || !isPlaceChosen ? null : anchorRow(), before = cardElement;
  cardElement = update();
  if (cardElement !== before) {
    before?.remove();
    placeCard();
    drawSoon();
  }
  if (cardElement ?? before) holdPlace(anchor);
}

// Puts the card before the first line, or after the last one if the user saw the run end there.
function placeCard() {
  if (!cardElement) return;
  if (isCardLast) log.append(cardElement);
  else log.prepend(cardElement);
}

// Sets the text before the first line, and whether there may be earlier lines.
export function tellFront(text, hasMore) {
  frontMark.firstChild.textContent = text;
  earlierButton.hidden = !hasMore;
  frontMark.classList.toggle('quiet', !hasMore);
  drawSoon();
}

// Sets whether lines are left out between the last line and the log's end. If so, the view does not follow the end.
export function tellBack(hasMore) {
  backMark.hidden = !hasMore;
  if (hasMore) isFollowingEnd = false;
  drawSoon();
}

// Reveals the row with the record of this id, or the first row after it, and marks it as the one that the address names.
export function showLine(id) {
  linkedRow = rowOfRecord(id);
  repaintAll();
  if (linkedRow) reveal(linkedRow);
}

// Marks the matches in every line, and the row of the current match.
export function markHits(regex, row) {
  [needle, currentRow] = [regex, row];
  repaintAll();
}

function repaintAll() {
  for (const chunk of chunks) for (const row of chunk.rows) if (row.element) staleRows.add(row);
  drawSoon();
}

export const firstInView = () => anchorRow()?.row.number ?? firstNumber;

// Unfolds the step of a row and brings the row into the middle of the view, where it stays.
export function reveal(row) {
  chosenRow = row;
  room = Infinity;
  stayHere();
  const { part } = row.chunk;
  if (!row.isHead) part.isFolded = false;
  showFold(part);
  insertParts();
  walkChunks((chunk, y) => {
    if (chunk === row.chunk) log.scrollTop = logTop() + y - log.clientHeight / 3;
  });
  for (let round = 0; round < 4; round++) {
    drawNear();
    if (!row.element) break;
    const box = boxOf(row.isHead ? part : row), view = log.getBoundingClientRect();
    log.scrollTop += box.top - view.top - (view.height - (row.isHead ? headHeight : box.height)) / 2;
  }
  drawFrame();
}

export function goToEnd() {
  isFollowingEnd = isPlaceChosen = true;
  drawSoon();
  logHooks.atEnd();
}

export function goToTop() {
  stayHere();
  log.scrollTop = 0;
}

export function stayHere() {
  isFollowingEnd = false;
  isPlaceChosen = true;
  lastTop = log.scrollTop;
  drawSoon();
}

// Updates the heights after a change that may affect each line.
export function remeasure() {
  // A hidden log has no heights.
  if (!chunks.length || !log.clientHeight) return;
  const anchor = anchorRow();
  headHeight = log.querySelector('.step')?.offsetHeight ?? headHeight;
  insertParts();
  drawNear();
  for (const chunk of chunks) {
    if (!chunk.isDrawn) chunk.height = rowsOf(chunk).length * lineHeight;
    setHeight(chunk);
  }
  holdPlace(anchor);
  drawSoon();
}

log.onscroll = () => {
  const top = log.scrollTop, off = pxToEnd();
  // Only scrolling by the user starts or ends following; lines that are added or removed do not.
  if (top > lastTop && off < END_PX && !isFollowingEnd && backMark.hidden) goToEnd();
  else if (top < lastTop - 1 && off > NEAR_END_PX) isFollowingEnd = false;
  if (Math.abs(top - lastTop) > 1) {
    isRising = top < lastTop;
    isPlaceChosen ||= !isFollowingEnd;
  }
  lastTop = top;
  drawSoon();
};

// The first pixel that a wheel, finger or key scrolls up ends following, because the next lines would scroll the view back.
let touchY = 0;
function leaveEnd(isUp) {
  if (isUp && log.scrollTop > 0) isFollowingEnd = false;
}
log.addEventListener('wheel', ({ deltaY }) => leaveEnd(deltaY < 0), { passive: true });
for (const kind of ['touchstart', 'touchmove']) {
  log.addEventListener(kind, ({ touches: [{ clientY }] }) => {
    leaveEnd(kind === 'touchmove' && clientY > touchY);
    touchY = clientY;
  }, { passive: true });
}
log.onkeydown = ({ key }) => leaveEnd(/^(ArrowUp|PageUp|Home)$/.test(key));

toLatest.append(icon('down'), el('span'));
toLatest.onclick = () => {
  log.focus({ preventScroll: true });
  goToEnd();
};

new ResizeObserver(remeasure).observe(log);
