// The rows of the log that are loaded: lines put together from records, in chunks, and the chunks in parts, one for each step.
//
// Rows are numbered without holes, and those put in front get smaller numbers. Whether and how a row is drawn is log.js's matter: a row, a chunk
// and a part have their element here, and nothing else of the document.

import { blank, judge, make, newHeading, stepName, write } from './ansi.js';
import * as view from './log.js';
import { LOG } from './words.js';

export const LINES_MAX = 100000;
// Of all lines.
const CHARS_MAX = 32e6;
const CHUNK_LINES = 100;
// Further steps are lines without a heading.
const CHUNKS_MAX = 3000;
const RAW_CHARS_MAX = 65536;
// How far an error is followed from older lines into those that were there.
const JOIN_LINES = 200;

// In order: {part, element, rows, height, isDrawn}.
export let chunks = [];
export let first = 0, end = 0;
// The rows that begin what looks like an error, in order.
export let errors = [];
// Whether lines had to go, or would have to go where somebody reads.
export let isFull = false;
// By stream: the row that the next record continues.
export let open = {};
export let hooks = { changed() {}, prepended() {}, trimmed() {} };
let chars = 0, lastRun, lastDay;
// By stream: the first row, whose line may have begun earlier, and whether an error goes on in the next line.
let heads = {}, verdicts = {};

// `earlier()` is to bring older lines, `later()` those behind the last one, and `atEnd()` is to go on at the log's end; the others tell the
// search what became of rows. Each caller attaches what it needs.
export function attach(given) {
  Object.assign(hooks, given);
}

export const bounds = () => [first, end];

export const errorMarks = () => errors;

// The text of the last `count` lines of the last error. Lines of the other stream may stand between them.
export function lastErrorLines(count) {
  const from = errors.at(-1)?.number ?? end;
  const lines = Array.from({ length: Math.min(JOIN_LINES, end - from) }, (_, n) => rowAt(from + n));
  return lines.filter(({ bad }) => bad).map(({ text }) => text).slice(-count);
}

// ---- What is loaded ----------------------------------------------------------

export function clear() {
  [chunks, errors, first, chars, isFull, lastRun, lastDay] = [[], [], end, 0, false];
  [open, heads, verdicts] = [{}, {}, {}];
  hooks.trimmed();
}

// Adds what came: lines of the API, and `{gone}` where bytes are missing.
export function append(lines) {
  for (const line of lines) {
    if (line.gone !== undefined || line.run_id !== lastRun) [open, verdicts] = [{}, {}];
    const known = open[line.stream], isNew = !(known?.number >= first);
    // What goes on in a row is of that row's day.
    const day = isNew && dayOf(line) || lastDay;
    notes(line, lastRun, day, lastDay).forEach(push);
    if (line.gone !== undefined) continue;
    [lastRun, lastDay] = [line.run_id, day];
    const row = isNew ? newRow(line) : known;
    heads[line.stream] ??= row;
    take(row, line);
    // A step's line begins a part, so it is read before it gets its place; one that came in pieces has a place already.
    if (isNew) push(row);
    else if (row.step) split(row);
    if (!line.partial) settle(row, verdicts);
    hooks.changed(row);
    view.repaintSoon(row);
    open[line.stream] = line.partial ? row : null;
  }
  view.schedule();
}

// Puts older ones in front of what is there.
export function prepend(lines) {
  const rows = [], begun = {}, note = chunks[0]?.rows[0];
  let run, day;
  for (const line of lines) {
    let row = line.run_id === run ? begun[line.stream] : null;
    const before = day;
    if (!row) day = dayOf(line) || day;
    rows.push(...notes(line, run, day, before));
    if (line.gone !== undefined) continue;
    if (!row) rows.push(row = newRow(line));
    run = line.run_id;
    take(row, line);
    begun[line.stream] = line.partial ? row : null;
  }
  if (run !== undefined && note?.isMark && note.run === run) {
    // This run has begun earlier than it seemed; a day begins here, or that, too.
    if (note.day && note.day !== day) {
      note.text = note.day;
      if (note.element) note.element.textContent = note.text;
    } else {
      chunks[0].rows.shift();
      note.element?.remove();
      first += 1;
      dropEmpty();
    }
  }
  for (const [stream, head] of Object.entries(heads)) {
    const row = begun[stream];
    // A line whose first records are among these and whose last were there already is one line, where its end is.
    if (row && row.run === head.run && row.raw !== null && head.raw !== null) {
      rows.splice(rows.indexOf(row), 1);
      const { raw, number, element, chunk, last } = head;
      chars -= head.text.length;
      take(row, { line: raw, id: last, partial: open[stream] === head });
      Object.assign(head, row, { number, element, chunk });
      view.redraw(head);
    }
    heads[stream] = rows.find((older) => older.stream === stream) ?? head;
  }
  first -= rows.length;
  const older = [];
  rows.forEach((row, n) => {
    row.number = first + n;
    if (heads[row.stream] !== row) row.raw = null;
    place(row, older);
  });
  join(older);
  // An error that begins in older lines may go on in those that were there.
  const limit = Math.min(end, first + rows.length + JOIN_LINES), judged = {};
  const others = errors.filter(({ number }) => number >= limit);
  errors = [];
  for (let n = first; n < limit; n++) {
    const row = rowAt(n);
    if (row.isMark || row === open[row.stream]) continue;
    settle(row, judged);
    view.repaintSoon(row);
  }
  errors.push(...others);
  hooks.prepended(rows);
  view.schedule();
}

// Puts older chunks in front. The lines before the first heading that was there are of the last step among the older ones.
function join(older) {
  const next = chunks[0]?.part, last = older.at(-1)?.part;
  for (const { part } of older) {
    part.isFolded = view.foldsOlder() && part !== last && !!part.head;
    view.showFold(part);
  }
  if (next && !next.head && last) {
    for (const chunk of older) if (chunk.part === last) chunk.part = next;
    Object.assign(next, { head: last.head, heading: last.heading });
    if (next.head) next.element.prepend(next.heading);
  }
  chunks = older.concat(chunks);
}

// What stands in front of a line that is the first of its run or its day, or behind something missing. `run` and `before` are those of
// the line before it.
function notes(line, run, day, before) {
  if (line.gone !== undefined) return [{ ...blank(), text: line.gone ? LOG.missing(line.gone) : LOG.someMissing, isMark: true, isGap: true }];
  if (line.run_id === run && day === before) return [];
  const words = [line.run_id !== run && LOG.run(line.run_id), day].filter(Boolean);
  return [{ ...blank(), text: words.join(' · '), run: line.run_id, day, isMark: true }];
}

// On which day, where this device is: a line's own time is only the clock's.
const dayOf = ({ ts }) => ts && new Date(ts).toDateString();

const newRow = ({ id, ts, stream, run_id: run }) => ({ ...blank(), id, ts, stream, run, raw: '' });

function take(row, { id, line, partial }) {
  // Only first lines need it: to be put together with what came before.
  const isHead = heads[row.stream] === row || row.number === undefined;
  row.raw = isHead && row.raw !== null && row.raw.length < RAW_CHARS_MAX ? row.raw + line : null;
  row.last = id;
  chars -= row.text.length;
  write(row, line, partial);
  chars += row.text.length;
  row.step = partial ? '' : stepName(row);
}

// Judges a line that has its end.
function settle(row, states) {
  row.bad = row.step ? 0 : judge(row, states[row.stream] ??= {});
  if (row.bad > 1) errors.push(row);
}

function push(row) {
  row.number = end++;
  if (heads[row.stream] !== row) row.raw = null;
  place(row, chunks);
  view.counts(row);
}

function place(row, list) {
  let chunk = list.at(-1);
  const isHead = row.step && chunks.length < CHUNKS_MAX;
  if (!chunk || isHead || chunk.rows.length >= CHUNK_LINES) {
    const part = chunk && !isHead ? chunk.part : { element: make('section') };
    list.push(chunk = { part, element: make('div', { className: 'chunk' }), rows: [], height: 0, pieces: 0 });
    if (isHead) {
      row.isHead = true;
      part.head = row;
      part.element.append(part.heading = row.element = newHeading(row.step));
      view.showFold(part);
    }
  }
  row.chunk = chunk;
  chunk.rows.push(row);
  if (!isHead) chunk.height += view.lineHeight;
}

// Gives a line that came in pieces, and what came behind it, another place, since it begins a step. Many lines of the other stream in between
// leave it where it is.
function split(row) {
  const chunk = chunks.at(-1);
  if (row.chunk !== chunk) return;
  for (const it of chunk.rows.splice(chunk.rows.indexOf(row))) {
    it.element?.remove();
    it.element = null;
    it.pieces = 0;
    chunk.height -= view.lineHeight;
    place(it, chunks);
  }
  dropEmpty();
}

// Takes chunks without rows out of the document.
function dropEmpty() {
  for (const { rows, element, part } of chunks) {
    if (rows.length) continue;
    element.remove();
    if (!part.element.firstChild) part.element.remove();
  }
  chunks = chunks.filter(({ rows }) => rows.length);
}

// Takes the oldest lines away while there are too many, but none beyond `limit`, the height above what somebody reads.
export function trim(limit) {
  let count = 0, height = 0;
  while (end - first > LINES_MAX || chars > CHARS_MAX) {
    isFull = true;
    const chunk = chunks[count], { part, element, rows } = chunk;
    height += part.isFolded ? 0 : chunk.height;
    if (height > limit || count === chunks.length - 1) break;
    for (const { text } of rows) chars -= text.length;
    first += rows.length;
    count += 1;
    element.remove();
    // A part keeps its heading as long as it has lines.
    if (chunks[count].part !== part) part.element.remove();
  }
  if (!count) return;
  chunks = chunks.slice(count);
  heads = {};
  errors = errors.filter(({ number }) => number >= first);
  hooks.trimmed();
}

// Where the first one that is not before a place is in a list in order.
export function lower(list, isBefore) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isBefore(list[middle])) low = middle + 1;
    else high = middle;
  }
  return low;
}

export function rowAt(number) {
  const { rows } = chunks[lower(chunks, ({ rows: [row] }) => row.number <= number) - 1];
  return rows[number - rows[0].number];
}

// The row that holds the record of this id, or else the first one behind it.
export function rowOfRecord(id) {
  let behind = null;
  for (const { rows } of chunks) {
    for (const row of rows) {
      if (row.id <= id && row.last >= id) return row;
      if (row.id > id) behind ??= row;
    }
  }
  return behind;
}

// The lines in a range of the document as they are read: one each, without times, and those, too, that are not in the document.
export function linesIn(range) {
  const lines = [];
  for (const { part: { isFolded }, element, rows } of chunks) {
    for (const row of rows) {
      const isIn = row.element ? range.intersectsNode(row.element) : !isFolded && range.intersectsNode(element);
      if (isIn && !row.isMark) lines.push(row.element && !row.isHead ? within(range, row.element.lastChild) : row.text);
    }
  }
  // A selection often ends in front of the next line's first character.
  return lines.length > 1 && !lines.at(-1) ? lines.slice(0, -1) : lines;
}

function within(range, text) {
  const part = document.createRange();
  part.selectNodeContents(text);
  if (range.comparePoint(text, 0) < 0) part.setStart(range.startContainer, range.startOffset);
  if (range.comparePoint(text, text.childNodes.length) > 0) part.setEnd(range.endContainer, range.endOffset);
  return part.toString();
}
