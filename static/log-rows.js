// The loaded rows of the log: lines assembled from records, in chunks, and the chunks in parts, one for each step.
//
// Rows are numbered without gaps; rows that are added at the front get smaller numbers. log.js decides whether and how a row is drawn: rows, chunks
// and parts have their elements here, and nothing else of the document is touched.

import { blank, judge, newHeading, stepName, write } from './ansi.js';
import { el } from './dom.js';
import { countRow, drawRow, drawSoon, isFolded, isFollowingEnd, lineHeight, showFold, staleRows } from './log.js';
import { LOG } from './words.js';

export const LINES_MAX = 100000;
// The most characters of all lines together.
const LOADED_CHARS = 32e6;
const CHUNK_LINES = 100;
// Further steps are shown as lines without a heading.
const CHUNKS_MAX = 3000;
const RAW_CHARS_MAX = 65536;
// How many of the lines loaded before are examined for the rest of an error that begins in older lines.
const JOIN_LINES = 200;

// In order: {part, element, rows, height, isDrawn}.
export let chunks = [];
export let firstNumber = 0, endNumber = 0;
// The rows that begin something that looks like an error, in order.
export let errorRows = [];
// Whether lines were removed, or would have to be removed where the user is reading.
export let isLogFull = false;
// By output stream: the row that the next record continues.
export let openRows = {};
export let logHooks = { changed() {}, prepended() {}, trimmed() {}, drawn() {} };
let chars = 0, lastRun, lastDay;
// By output stream: the first row, whose line may have begun earlier; and whether an error continues in the next line.
let heads = {}, verdicts = {};

// `earlier()` loads older lines, `later()` those after the last one, and `atEnd()` continues at the log's end. The other hooks notify the search
// of changed rows, and the tools that the log was drawn. Each caller attaches the hooks that it needs.
export function attach(given) {
  Object.assign(logHooks, given);
}

export const rowBounds = () => [firstNumber, endNumber];

// Returns the last `count` lines of the last error, with the first line of the first error before them. Lines of the other output stream between
// them are left out.
export function lastErrorLines(count) {
  const [head] = errorRows, from = errorRows.at(-1)?.number ?? endNumber;
  const lines = Array.from({ length: Math.min(JOIN_LINES, endNumber - from) }, (_, n) => rowAt(from + n)).filter(({ bad }) => bad).slice(-count);
  // The heading of a traceback alone gives no information.
  const isTold = head && !lines.includes(head) && !/^\s*Traceback/.test(head.text);
  return [...isTold ? [head.text, '…'] : [], ...lines.map(({ text }) => text)];
}

// ---- What is loaded ----------------------------------------------------------

export function clearRows() {
  [chunks, errorRows, firstNumber, chars, isLogFull, lastRun, lastDay] = [[], [], endNumber, 0, false];
  [openRows, heads, verdicts] = [{}, {}, {}];
  logHooks.trimmed();
}

// Adds lines of the API, and `{gone}` entries, which give the number of missing bytes.
export function append(lines) {
  for (const line of lines) {
    // A gap belongs to no run.
    if (line.run_id !== lastRun) [openRows, verdicts] = [{}, {}];
    const known = openRows[line.stream], isNew = !(known?.number >= firstNumber);
    // A record that continues a row counts to the day of that row.
    const day = isNew && dayOfLine(line) || lastDay;
    marksBefore(line, lastRun, day, lastDay).forEach(pushRow);
    if (line.gone !== undefined) continue;
    [lastRun, lastDay] = [line.run_id, day];
    const row = isNew ? newRow(line) : known;
    heads[line.stream] ??= row;
    takeRecord(row, line);
    // The line of a step begins a part, so it is read before it gets its place. A line that came in several records has a place already.
    if (isNew) pushRow(row);
    else if (row.step) moveToStep(row);
    if (!line.partial) judgeRow(row, verdicts);
    logHooks.changed(row);
    staleRows.add(row);
    openRows[line.stream] = line.partial ? row : null;
  }
  drawSoon();
}

// Adds older lines at the front.
export function prepend(lines) {
  const rows = [], begun = {}, note = chunks[0]?.rows[0];
  let run, day;
  for (const line of lines) {
    let row = line.run_id === run ? begun[line.stream] : null;
    const before = day;
    if (!row) day = dayOfLine(line) || day;
    rows.push(...marksBefore(line, run, day, before));
    if (line.gone !== undefined) continue;
    if (!row) rows.push(row = newRow(line));
    run = line.run_id;
    takeRecord(row, line);
    begun[line.stream] = line.partial ? row : null;
  }
  if (run !== undefined && note?.isMark && note.run === run) {
    // The run began earlier than it seemed. The old note is needed only if a new day begins there.
    if (note.day && note.day !== day) {
      note.text = note.day;
      note.element?.replaceWith(drawRow(note));
    } else {
      chunks[0].rows.shift();
      note.element?.remove();
      firstNumber += 1;
      dropEmpty();
    }
  }
  for (const [stream, head] of Object.entries(heads)) {
    const row = begun[stream];
    // A line that begins in the older lines and ends in the loaded ones is one row, where it ends.
    if (row && row.run === head.run && row.raw !== null && head.raw !== null) {
      rows.splice(rows.indexOf(row), 1);
      const { raw, number, element, chunk, last } = head;
      chars -= head.text.length;
      takeRecord(row, { line: raw, id: last, partial: openRows[stream] === head });
      Object.assign(head, row, { number, element, chunk });
      head.element?.replaceWith(drawRow(head));
    }
    heads[stream] = rows.find((older) => older.stream === stream) ?? head;
  }
  firstNumber -= rows.length;
  const older = [];
  rows.forEach((row, n) => {
    row.number = firstNumber + n;
    if (heads[row.stream] !== row) row.raw = null;
    placeRow(row, older);
  });
  joinParts(older);
  // An error that begins in older lines may continue in lines that were loaded before.
  const limit = Math.min(endNumber, firstNumber + rows.length + JOIN_LINES), judged = {};
  const others = errorRows.filter(({ number }) => number >= limit);
  errorRows = [];
  for (let n = firstNumber; n < limit; n++) {
    const row = rowAt(n);
    if (row.isMark || row === openRows[row.stream]) continue;
    judgeRow(row, judged);
    staleRows.add(row);
  }
  errorRows.push(...others);
  logHooks.prepended(rows);
  drawSoon();
}

// Adds older chunks at the front. The lines before the first loaded heading belong to the last step of the older ones.
function joinParts(older) {
  const next = chunks[0]?.part, last = older.at(-1)?.part;
  for (const { part } of older) {
    part.isFolded = isFolded && isFollowingEnd && part !== last && !!part.head;
    showFold(part);
  }
  if (next && !next.head && last) {
    for (const chunk of older) if (chunk.part === last) chunk.part = next;
    Object.assign(next, { head: last.head, heading: last.heading });
    if (next.head) next.element.prepend(next.heading);
  }
  chunks = older.concat(chunks);
}

// Returns the marks before a line: if it is the first of its run or its day, or if something is missing before it. `run` and `before` are the run
// and the day of the previous line.
function marksBefore(line, run, day, before) {
  if (line.gone !== undefined) return [{ ...blank(), text: line.gone ? LOG.missing(line.gone) : LOG.someMissing, isMark: true, isGap: true }];
  if (line.run_id === run && day === before) return [];
  const words = [line.run_id !== run && LOG.run(line.run_id), day].filter(Boolean);
  return [{ ...blank(), text: words.join(' · '), run: line.run_id, day, isMark: true }];
}

// Returns the day of a line in this device's time zone. The row itself shows only the time of day.
const dayOfLine = ({ ts }) => ts && new Date(ts).toDateString();

const newRow = ({ id, ts, stream, run_id: run }) => ({ ...blank(), id, ts, stream, run, raw: '' });

function takeRecord(row, { id, line, partial }) {
  // Only the first rows need their raw text: older lines may turn out to contain their beginning.
  const isHead = heads[row.stream] === row || row.number === undefined;
  row.raw = isHead && row.raw !== null && row.raw.length < RAW_CHARS_MAX ? row.raw + line : null;
  row.last = id;
  chars -= row.text.length;
  write(row, line, partial);
  chars += row.text.length;
  row.step = partial ? '' : stepName(row);
}

// Judges a complete line.
function judgeRow(row, states) {
  row.bad = row.step ? 0 : judge(row, states[row.stream] ??= {});
  if (row.bad > 1) errorRows.push(row);
}

function pushRow(row) {
  row.number = endNumber++;
  if (heads[row.stream] !== row) row.raw = null;
  placeRow(row, chunks);
  countRow(row);
}

function placeRow(row, list) {
  let chunk = list.at(-1);
  const isHead = row.step && chunks.length < CHUNKS_MAX;
  if (!chunk || isHead || chunk.rows.length >= CHUNK_LINES) {
    const part = chunk && !isHead ? chunk.part : { element: el('section') };
    list.push(chunk = { part, element: el('div', 'chunk'), rows: [], height: 0, pieces: 0 });
    if (isHead) {
      row.isHead = true;
      part.head = row;
      part.element.append(part.heading = row.element = newHeading(row.step));
      showFold(part);
    }
  }
  row.chunk = chunk;
  chunk.rows.push(row);
  if (!isHead) chunk.height += lineHeight;
}

// Moves a line that came in several records, and the rows after it, to a new part, because the line begins a step. It stays where it is if many
// lines of the other output stream have come in between.
function moveToStep(row) {
  const chunk = chunks.at(-1);
  if (row.chunk !== chunk) return;
  for (const it of chunk.rows.splice(chunk.rows.indexOf(row))) {
    it.element?.remove();
    it.element = null;
    it.pieces = 0;
    chunk.height -= lineHeight;
    placeRow(it, chunks);
  }
  dropEmpty();
}

// Removes chunks without rows from the document.
function dropEmpty() {
  for (const { rows, element, part } of chunks) {
    if (rows.length) continue;
    element.remove();
    if (!part.element.firstChild) part.element.remove();
  }
  chunks = chunks.filter(({ rows }) => rows.length);
}

// Removes the oldest lines while there are too many, but none beyond `limit`, the height above the part that the user is reading.
export function trimRows(limit) {
  let count = 0, height = 0;
  while (endNumber - firstNumber > LINES_MAX || chars > LOADED_CHARS) {
    isLogFull = true;
    const chunk = chunks[count], { part, element, rows } = chunk;
    height += part.isFolded ? 0 : chunk.height;
    if (height > limit || count === chunks.length - 1) break;
    for (const { text } of rows) chars -= text.length;
    firstNumber += rows.length;
    count += 1;
    element.remove();
    // A part keeps its heading as long as it has lines.
    if (chunks[count].part !== part) part.element.remove();
  }
  if (!count) return;
  chunks = chunks.slice(count);
  heads = {};
  errorRows = errorRows.filter(({ number }) => number >= firstNumber);
  logHooks.trimmed();
}

// Returns the index of the first entry for which `isBefore` is false, in an ordered list.
export function firstFrom(list, isBefore) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isBefore(list[middle])) low = middle + 1;
    else high = middle;
  }
  return low;
}

export function rowAt(number) {
  const { rows } = chunks[firstFrom(chunks, ({ rows: [row] }) => row.number <= number) - 1];
  return rows[number - rows[0].number];
}

// Returns the row that contains the record of this id, or the first row after it.
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

// Returns the lines in a range of the document as text: one entry each, without times, including lines that are not in the document now.
export function linesIn(range) {
  const lines = [];
  for (const { part: { isFolded }, element, rows } of chunks) {
    for (const row of rows) {
      const isIn = row.element ? range.intersectsNode(row.element) : !isFolded && range.intersectsNode(element);
      if (isIn && !row.isMark) lines.push(row.element && !row.isHead ? textIn(range, row.element.lastChild) : row.text);
    }
  }
  // A selection often ends before the next line's first character.
  return lines.length > 1 && !lines.at(-1) ? lines.slice(0, -1) : lines;
}

function textIn(range, text) {
  const part = document.createRange();
  part.selectNodeContents(text);
  if (range.comparePoint(text, 0) < 0) part.setStart(range.startContainer, range.startOffset);
  if (range.comparePoint(text, text.childNodes.length) > 0) part.setEnd(range.endContainer, range.endOffset);
  return part.toString();
}
