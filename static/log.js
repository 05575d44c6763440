// The log on the page: what is loaded of it, what of that is in the document, and following the end.
//
// All lines are kept as text, in chunks, each with its element. Only the chunks near the view hold elements for their lines; the others are as
// high as they were or are thought to be. So a hundred thousand lines cost a page what a few hundred do. It is drawn once a frame, and
// what one reads stays where it is, whatever comes or goes above and below. Text gets in by textContent only.

import { blank, classes, write } from './ansi.js';
import { bytes, clock } from './words.js';

export const LINES_MAX = 100000;
const CHARS_MAX = 32e6;       // of all lines
const CHUNK_LINES = 100;
const PIECES_MAX = 500;       // of one line, each with its own looks
const CHUNK_PIECES_MAX = 8000;
const RAW_CHARS_MAX = 65536;
const END_PX = 40;            // this close to the end is at the end
const FILLS_MAX = 5;          // how often a short log is made longer without being asked

const $ = (id) => document.getElementById(id);
const log = $('log');

let chunks = [];              // in order: {element, rows, height, isDrawn, isNew}
let first = 0, end = 0;       // rows are numbered without holes, and those put in front get smaller numbers
let chars = 0;
let isFull = false;           // whether lines had to go, or would have to go where somebody reads
let following = true;         // whether the view stays at the end
let fresh = 0;                // rows that came since it does not
let open = {};                // by stream: the row that the next record continues
let heads = {};               // by stream: the first row, whose line may have begun earlier
let lastRun, lastDay = '';
let lineHeight = 20, lastTop = 0, fills = 0;
let isScheduled = false;
let needle = null, current = null; // what to mark, and in which row one is
const stale = new Set();      // rows to repaint with the next frame: once each, however many records they received
let hooks;

const front = document.createElement('div'); // the text before the first line
const more = document.createElement('button');
more.type = 'button';
more.textContent = 'Earlier lines';
front.className = 'mark';
front.append(document.createElement('span'), ' ', more);

// `earlier()` is to bring older lines, `atEnd()` to go on; the others tell the search what became of rows.
export function attach(given) {
  hooks = given;
  more.addEventListener('click', () => hooks.earlier());
}

export const isFollowing = () => following;

// Whether no line may come in now: one would go where somebody reads.
export const takesNone = () => isFull && !following;

export const bounds = () => [first, end];

// Whether the log's first line is loaded.
export const isWhole = () => more.hidden && !isFull;

// ---- What is loaded --------------------------------------------------------------------------------------------------

export function clear() {
  log.replaceChildren();
  chunks = [];
  first = end;
  chars = fresh = fills = 0;
  isFull = false;
  following = true;
  open = {};
  heads = {};
  lastRun = undefined;
  lastDay = '';
  tellFront('', true);
  hooks.trimmed();
}

// Adds what came: lines of the API, and `{gone}` where bytes are missing.
export function append(lines) {
  for (const line of lines) {
    if (line.gone !== undefined || line.run_id !== lastRun) open = {};
    let row = open[line.stream];
    if (row?.isGone) row = null;
    // What goes on in a row is of that row's day.
    const day = row ? lastDay : dayOf(line.ts) || lastDay;
    for (const mark of marks(line, lastRun, day, lastDay)) push(mark);
    if (line.gone !== undefined) continue;
    [lastRun, lastDay] = [line.run_id, day];
    if (!row) push(row = newRow(line));
    heads[line.stream] ??= row;
    take(row, line);
    hooks.changed(row);
    if (row.element) stale.add(row);
    open[line.stream] = line.partial ? row : null;
  }
  schedule();
}

// Puts older ones in front of what is there.
export function prepend(lines) {
  const rows = [], begun = {};
  let run, day = '';
  for (const line of lines) {
    let row = line.run_id === run ? begun[line.stream] : null;
    const before = day;
    if (!row) day = dayOf(line.ts) || day;
    rows.push(...marks(line, run, day, before));
    if (line.gone !== undefined) continue;
    if (!row) rows.push(row = newRow(line));
    run = line.run_id;
    take(row, line);
    begun[line.stream] = line.partial ? row : null;
  }
  if (run !== undefined && chunks[0]?.rows[0].run === run) {
    // This run has begun earlier than it seemed; a day begins here, or that, too.
    const [mark] = chunks[0].rows;
    if (mark.day && mark.day !== day) {
      mark.text = mark.day;
      if (mark.element) mark.element.textContent = mark.text;
    } else {
      chunks[0].rows.shift();
      mark.element?.remove();
      first += 1;
      if (!chunks[0].rows.length) chunks.shift().element.remove();
    }
  }
  for (const [stream, head] of Object.entries(heads)) {
    const row = begun[stream];
    // A line whose first records are among these and whose last were there already is one line, where its end is.
    if (row && row.run === head.run && row.raw !== null && head.raw !== null) {
      rows.splice(rows.indexOf(row), 1);
      const { raw, number, element } = head;
      chars -= head.text.length;
      take(row, { line: raw, partial: open[stream] === head });
      Object.assign(head, row, { number, element });
      if (element) element.replaceWith(draw(head));
    }
    heads[stream] = rows.find((older) => older.stream === stream) ?? head;
  }
  first -= rows.length;
  rows.forEach((row, n) => {
    row.number = first + n;
    if (heads[row.stream] !== row) row.raw = null;
  });
  const older = [];
  for (let n = 0; n < rows.length; n += CHUNK_LINES) older.push(newChunk(rows.slice(n, n + CHUNK_LINES)));
  chunks = older.concat(chunks);
  hooks.prepended(rows);
  schedule();
}

// What stands in front of a line that is the first of its run or its day, or behind something missing. `run` and `before` are those of
// the line before it.
function marks(line, run, day, before) {
  if (line.gone !== undefined) return [{ ...blank(), text: `${line.gone ? bytes(line.gone) : 'Some lines'} not kept any more`, isMark: true }];
  if (line.run_id === run && day === before) return [];
  const words = line.run_id === run ? [day] : [`run ${line.run_id}`, ...(day ? [day] : [])];
  return [{ ...blank(), text: words.join(' · '), run: line.run_id, day, isMark: true }];
}

// On which day, where this device is: a line's own time is only the clock's.
const dayOf = (ts) => ts ? new Date(ts).toDateString() : '';

function newRow(line) {
  return { ...blank(), ts: line.ts, stream: line.stream, run: line.run_id, raw: '' };
}

function take(row, line) {
  // Only first lines need it: to be put together with what came before.
  const isHead = heads[row.stream] === row || row.number === undefined;
  row.raw = isHead && row.raw !== null && row.raw.length < RAW_CHARS_MAX ? row.raw + line.line : null;
  chars -= row.text.length;
  write(row, line.line, line.partial);
  chars += row.text.length;
}

function push(row) {
  let chunk = chunks.at(-1);
  if (!chunk || chunk.rows.length >= CHUNK_LINES) chunks.push(chunk = newChunk([]));
  row.number = end++;
  row.chunk = chunk;
  chunk.rows.push(row);
  chunk.height += lineHeight;
  if (!following && !row.isMark) fresh += 1;
}

function newChunk(rows) {
  const chunk = { element: document.createElement('div'), rows, height: rows.length * lineHeight, pieces: 0, isDrawn: false, isNew: true };
  for (const row of rows) row.chunk = chunk;
  return chunk;
}

// The oldest lines go, but none within a screen of where somebody reads.
function trim() {
  const limit = following ? Infinity : log.scrollTop - front.offsetHeight - log.clientHeight;
  let count = 0, height = 0;
  while (end - first > LINES_MAX || chars > CHARS_MAX) {
    isFull = true;
    const chunk = chunks[count];
    if (height + chunk.height > limit || count === chunks.length - 1) break;
    for (const row of chunk.rows) {
      row.isGone = true;
      chars -= row.text.length;
    }
    height += chunk.height;
    first += chunk.rows.length;
    chunk.element.remove();
    count += 1;
  }
  if (isFull && !more.hidden) tellFront(`This page shows ${LINES_MAX.toLocaleString()} lines at most; the download has them all.`, false);
  if (!count) return;
  chunks = chunks.slice(count);
  heads = {};
  hooks.trimmed();
}

export function rowAt(number) {
  return chunkOf(number).rows.at(number - chunkOf(number).rows[0].number);
}

function chunkOf(number) {
  let [low, high] = [0, chunks.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (chunks[middle].rows[0].number <= number) low = middle;
    else high = middle - 1;
  }
  return chunks[low];
}

// ---- What is drawn ---------------------------------------------------------------------------------------------------

function schedule() {
  if (!isScheduled) requestAnimationFrame(frame);
  isScheduled = true;
}

function frame() {
  isScheduled = false;
  for (const row of stale) if (row.element) paint(row);
  stale.clear();
  const view = log.clientHeight;
  if (!view || !chunks.length) return;
  const anchor = following ? null : anchorRow();
  trim();
  if (!front.isConnected) log.prepend(front);
  for (let n = chunks.length - 1, next = null; n >= 0; next = chunks[n--].element) {
    const chunk = chunks[n];
    if (chunk.isNew) log.insertBefore(chunk.element, next);
    if (chunk.isNew || n === chunks.length - 1 && !chunk.isDrawn) chunk.element.style.height = `${chunk.height}px`;
    chunk.isNew = false;
    // Only here, so that between two frames the end stays where the view is.
    if (chunk.isDrawn) for (const row of chunk.rows.slice(chunk.element.children.length)) chunk.element.append(draw(row));
  }
  // What is drawn has another height than was thought, so that more or less of it may be near.
  for (let round = 0; round < 4; round++) {
    if (!drawNear(view)) break;
    hold(anchor);
  }
  hold(anchor);
  const isShort = log.scrollHeight <= view;
  if (isShort) following = true;
  lastTop = log.scrollTop;
  if (!following) fresh = Math.min(fresh, end - first);
  showEnd();
  if (more.hidden || end - first > LINES_MAX - 5000) return;
  if (isShort ? fills++ < FILLS_MAX : !following && lastTop < view) hooks.earlier();
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
  const all = chunks.reduce((sum, chunk) => sum + chunk.height, 0);
  const top = following ? all - view : log.scrollTop - front.offsetHeight;
  let y = 0, changed = false;
  for (const chunk of chunks) {
    const near = y + chunk.height > top - view && y < top + 2 * view;
    y += chunk.height;
    if (near === chunk.isDrawn || !near && isSelected(chunk)) continue;
    changed = true;
    chunk.isDrawn = near;
    chunk.element.style.height = near ? '' : `${chunk.height}px`;
    if (near) chunk.element.replaceChildren(...chunk.rows.map(draw));
    else {
      chunk.element.replaceChildren();
      chunk.pieces = 0;
      for (const row of chunk.rows) Object.assign(row, { element: null, pieces: 0 });
    }
  }
  let height = 0, count = 0;
  for (const chunk of chunks) {
    if (!chunk.isDrawn) continue;
    chunk.height = chunk.element.getBoundingClientRect().height;
    height += chunk.height;
    count += chunk.rows.length;
  }
  if (count) lineHeight = height / count;
  return changed;
}

function isSelected(chunk) {
  const selection = getSelection();
  return !selection.isCollapsed && selection.containsNode(chunk.element, true);
}

// The first row in view, and where it is.
function anchorRow() {
  const edge = log.getBoundingClientRect().top;
  for (const chunk of chunks) {
    if (!chunk.isDrawn || chunk.element.getBoundingClientRect().bottom <= edge) continue;
    for (const row of chunk.rows) {
      const box = row.element.getBoundingClientRect();
      if (box.bottom > edge) return { element: row.element, top: box.top, number: row.number };
    }
  }
  return null;
}

// Not a paragraph, because copying would add an empty line after each.
function draw(row) {
  const element = row.element = document.createElement('div');
  if (row.isMark) {
    element.className = 'mark';
    element.textContent = row.text;
    return element;
  }
  element.className = 'row';
  if (row.stream === 'stderr') {
    element.classList.add('stderr');
    element.title = 'stderr';
  }
  const time = document.createElement('time');
  if (row.ts) {
    time.textContent = `${clock(Date.parse(row.ts))} `;
    time.dateTime = time.title = row.ts;
  }
  element.append(time, document.createElement('span'));
  paint(row);
  return element;
}

function paint(row) {
  if (row.isMark) return;
  const text = row.element.lastChild;
  text.classList.toggle('cut', row.isCut);
  row.element.classList.toggle('current', row === current);
  const { chunk } = row;
  chunk.pieces -= row.pieces ?? 0;
  const nodes = pieces(row, Math.min(PIECES_MAX, CHUNK_PIECES_MAX - chunk.pieces));
  row.pieces = nodes.length;
  chunk.pieces += nodes.length;
  text.replaceChildren(...nodes);
}

// Splits a line's text into DOM nodes. Text beyond the limit becomes one node.
function pieces({ text, tones }, most) {
  const nodes = [];
  const hits = needle ? [...text.matchAll(needle)] : [];
  for (let at = 0, to, hit = 0; at < text.length; at = to) {
    const { index = text.length, 0: { length } = '' } = hits[hit] ?? {};
    const isHit = at >= index && nodes.length <= most;
    const tone = tones.charCodeAt(at) || 0;
    const limit = nodes.length > most ? text.length : isHit ? index + length : index;
    for (to = at + 1; to < limit && (nodes.length > most || (tones.charCodeAt(to) || 0) === tone);) to += 1;
    if (isHit && to === limit) hit += 1;
    let node = text.slice(at, to);
    if (tone || isHit) {
      node = document.createElement(isHit ? 'mark' : 'span');
      node.className = classes(tone);
      node.textContent = text.slice(at, to);
    }
    nodes.push(node);
  }
  return nodes;
}

function showEnd() {
  const button = $('latest');
  const words = takesNone() ? 'New lines wait' : fresh ? `${fresh.toLocaleString()} new line${fresh === 1 ? '' : 's'}` : 'Jump to latest';
  if (button.textContent !== words) button.textContent = words;
  button.hidden = following;
}

// ---- What others ask for ---------------------------------------------------------------------------------------------

// What stands in front of the first line, and whether there may be earlier ones.
export function tellFront(text, hasMore) {
  front.firstChild.textContent = text;
  more.hidden = !hasMore;
  schedule();
}

// Marks what matches in every line, and the row that one is in.
export function mark(regex, row) {
  needle = regex;
  current = row;
  for (const chunk of chunks) if (chunk.isDrawn) chunk.rows.forEach(paint);
  schedule();
}

// The number of the first row in view.
export function firstInView() {
  return anchorRow()?.number ?? first;
}

// Brings a row into the middle of the view, where it stays.
export function reveal(row) {
  following = false;
  const chunk = chunkOf(row.number);
  log.scrollTop = chunks.slice(0, chunks.indexOf(chunk)).reduce((sum, { height }) => sum + height, front.offsetHeight);
  frame();
  for (let round = 0; round < 2 && row.element; round++) {
    const [box, view] = [row.element.getBoundingClientRect(), log.getBoundingClientRect()];
    log.scrollTop += box.top - view.top - (view.height - box.height) / 2;
    frame();
  }
}

export function goToEnd() {
  following = true;
  fresh = 0;
  schedule();
  hooks.atEnd();
}

function showWrap(wraps) {
  log.classList.toggle('nowrap', !wraps);
  $('wrap')?.setAttribute('aria-pressed', wraps);
  remeasure();
}

// Each line may have another height now.
function remeasure() {
  const anchor = following ? null : anchorRow();
  drawNear(log.clientHeight);
  for (const chunk of chunks) {
    if (chunk.isDrawn) continue;
    chunk.height = chunk.rows.length * lineHeight;
    chunk.element.style.height = `${chunk.height}px`;
  }
  if (anchor?.element.isConnected) reveal(rowAt(anchor.number));
  schedule();
}

log.addEventListener('scroll', () => {
  const top = log.scrollTop;
  const isAtEnd = log.scrollHeight - top - log.clientHeight < END_PX;
  // Only who goes down to the end or up from it; what comes and goes moves nobody.
  if (top > lastTop && isAtEnd && !following) goToEnd();
  else if (top < lastTop - 1 && !isAtEnd) following = false;
  lastTop = top;
  schedule();
}, { passive: true });

$('latest').addEventListener('click', () => {
  log.focus({ preventScroll: true });
  goToEnd();
});

$('wrap')?.addEventListener('click', () => {
  const wraps = $('wrap').getAttribute('aria-pressed') !== 'true';
  showWrap(wraps);
  try {
    localStorage.setItem('wrap', wraps);
  } catch {
    // Where nothing may be kept, it is for this time.
  }
});

try {
  showWrap(localStorage.getItem('wrap') !== 'false');
} catch {
  showWrap(true);
}

new ResizeObserver(remeasure).observe(log);
