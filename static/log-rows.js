// The rows of the log that are loaded: lines put together from records, in chunks, and the chunks in parts, one for each step.
//
// Rows are numbered without holes, and those put in front get smaller numbers. Whether and how a row is drawn is log.js's matter: a row, a chunk
// and a part have their element here, and nothing else of the document.

import { blank, judge, newHeading, stepName, write } from './ansi.js';
import { LOG } from './words.js';

export const LINES_MAX = 100000;
const CHARS_MAX = 32e6;       // of all lines
const CHUNK_LINES = 100;
const PARTS_MAX = 1000;       // further steps are lines without a heading
const RAW_CHARS_MAX = 65536;
const JOIN_LINES = 200;       // how far an error is followed from older lines into those that were there

export let chunks = [];       // in order: {part, element, rows, height, isDrawn, isNew}
export let first = 0, end = 0;
export let errors = [];       // the rows that begin what looks like an error, in order
export let isFull = false;    // whether lines had to go, or would have to go where somebody reads
export let open = {};         // by stream: the row that the next record continues
export let hooks = { changed() {}, prepended() {}, trimmed() {}, earlier() {}, later() {}, atEnd() {} };
let partCount = 0, chars = 0;
let heads = {};               // by stream: the first row, whose line may have begun earlier
let verdicts = {};            // by stream: whether an error goes on in its next line
let lastRun, lastDay = '';
let view;

// `earlier()` is to bring older lines, `later()` those behind the last one, and `atEnd()` is to go on at the log's end; the others tell the
// search what became of rows. Each caller attaches what it needs.
export function attach(given) {
  hooks = { ...hooks, ...given };
}

// `lineHeight()` is what a line is thought to take, `foldsOlder()` whether steps in front are folded when they come; `counts(row)` hears of each
// new row, `repaint(row)` and `redraw(row)` of rows that are drawn, `showFold(part)` of a new part, and `schedule()` of all changes.
export function drawBy(given) {
  view = given;
}

export const bounds = () => [first, end];

export const errorMarks = () => errors;

// The text of the last `count` lines of the last error. Lines of the other stream may stand between them.
export function lastErrorLines(count) {
  const texts = [], from = errors.at(-1)?.number ?? end;
  for (let n = from; n < Math.min(end, from + JOIN_LINES); n++) if (rowAt(n).bad) texts.push(rowAt(n).text);
  return texts.slice(-count);
}

// ---- What is loaded ----------------------------------------------------------

export function clear() {
  chunks = [];
  errors = [];
  first = end;
  chars = partCount = 0;
  isFull = false;
  [open, heads, verdicts] = [{}, {}, {}];
  lastRun = undefined;
  lastDay = '';
  hooks.trimmed();
}

// Adds what came: lines of the API, and `{gone}` where bytes are missing.
export function append(lines) {
  for (const line of lines) {
    if (line.gone !== undefined || line.run_id !== lastRun) [open, verdicts] = [{}, {}];
    let row = open[line.stream];
    if (row?.isGone) row = null;
    // What goes on in a row is of that row's day.
    const day = row ? lastDay : dayOf(line.ts) || lastDay;
    for (const mark of marks(line, lastRun, day, lastDay)) push(mark);
    if (line.gone !== undefined) continue;
    [lastRun, lastDay] = [line.run_id, day];
    const isNew = !row;
    row ??= newRow(line);
    heads[line.stream] ??= row;
    take(row, line);
    // A step's line begins a part, so it is read before it gets its place; one that came in pieces is taken out of its chunk.
    if (isNew) push(row);
    else if (row.step) split(row);
    if (!line.partial) settle(row, verdicts);
    hooks.changed(row);
    if (row.element) view.repaint(row);
    open[line.stream] = line.partial ? row : null;
  }
  view.schedule();
}

// Puts older ones in front of what is there.
export function prepend(lines) {
  const rows = [], begun = {}, judged = {};
  const wrong = errors;
  errors = [];
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
    if (!line.partial) settle(row, judged);
    begun[line.stream] = line.partial ? row : null;
  }
  if (run !== undefined && chunks[0]?.rows[0].run === run && chunks[0].rows[0].isMark) {
    // This run has begun earlier than it seemed; a day begins here, or that, too.
    const [mark] = chunks[0].rows;
    if (mark.day && mark.day !== day) {
      mark.text = mark.day;
      if (mark.element) mark.element.textContent = mark.text;
    } else {
      chunks[0].rows.shift();
      mark.element?.remove();
      first += 1;
      if (!chunks[0].rows.length) drop(chunks.shift());
    }
  }
  const steps = [];
  for (const [stream, head] of Object.entries(heads)) {
    const row = begun[stream];
    // A line whose first records are among these and whose last were there already is one line, where its end is.
    if (row && row.run === head.run && row.raw !== null && head.raw !== null) {
      rows.splice(rows.indexOf(row), 1);
      const { raw, number, element, chunk, last } = head;
      chars -= head.text.length;
      take(row, { line: raw, id: last, partial: open[stream] === head });
      Object.assign(head, row, { number, element, chunk });
      if (element) view.redraw(head, element);
      if (head.step && !head.isHead) steps.push(head);
      if (open[stream] !== head) settle(head, judged);
    }
    heads[stream] = rows.find((older) => older.stream === stream) ?? head;
  }
  first -= rows.length;
  rows.forEach((row, n) => {
    row.number = first + n;
    if (heads[row.stream] !== row) row.raw = null;
  });
  const older = [];
  for (const row of rows) place(row, older);
  join(older);
  steps.forEach(split);
  followErrors(rows.length, judged);
  errors = [...new Set(errors.concat(wrong))].filter(({ bad }) => bad > 1).sort((a, b) => a.number - b.number);
  hooks.prepended(rows);
  view.schedule();
}

// Puts older chunks in front. The lines before the first heading that was there are of the last step among the older ones.
function join(older) {
  const [next, last] = [chunks[0]?.part, older.at(-1)?.part];
  if (view.foldsOlder()) for (const { part } of older) part.isFolded = part !== last && !!part.head;
  if (next && !next.head && last) {
    for (const chunk of older) if (chunk.part === last) chunk.part = next;
    [next.head, next.heading] = [last.head, last.heading];
    if (next.head) next.element.prepend(next.heading);
  }
  for (const { part } of older) view.showFold(part);
  chunks = older.concat(chunks);
}

// An error that begins in older lines may go on in those that were there.
function followErrors(count, judged) {
  for (let n = first + count; n < Math.min(end, first + count + JOIN_LINES); n++) {
    const row = rowAt(n), state = judged[row.stream];
    if (!state?.left || row.isMark || row === open[row.stream]) continue;
    settle(row, judged);
    if (row.element) view.repaint(row);
  }
}

// What stands in front of a line that is the first of its run or its day, or behind something missing. `run` and `before` are those of
// the line before it.
function marks(line, run, day, before) {
  if (line.gone !== undefined) return [{ ...blank(), text: line.gone ? LOG.missing(line.gone) : LOG.someMissing, isMark: true, isGap: true }];
  if (line.run_id === run && day === before) return [];
  const words = line.run_id === run ? [day] : [LOG.run(line.run_id), ...(day ? [day] : [])];
  return [{ ...blank(), text: words.join(' · '), run: line.run_id, day, isMark: true }];
}

// On which day, where this device is: a line's own time is only the clock's.
const dayOf = (ts) => ts ? new Date(ts).toDateString() : '';

function newRow(line) {
  return { ...blank(), id: line.id, ts: line.ts, stream: line.stream, run: line.run_id, raw: '' };
}

function take(row, line) {
  // Only first lines need it: to be put together with what came before.
  const isHead = heads[row.stream] === row || row.number === undefined;
  row.raw = isHead && row.raw !== null && row.raw.length < RAW_CHARS_MAX ? row.raw + line.line : null;
  row.last = line.id;
  chars -= row.text.length;
  write(row, line.line, line.partial);
  chars += row.text.length;
  row.step = line.partial ? '' : stepName(row);
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
  const isHead = !!row.step && partCount < PARTS_MAX;
  if (!chunk || isHead || chunk.rows.length >= CHUNK_LINES) {
    const part = chunk && !isHead ? chunk.part : newPart(isHead ? row : null);
    list.push(chunk = newChunk(part));
  }
  row.chunk = chunk;
  chunk.rows.push(row);
  if (!isHead) chunk.height += view.lineHeight();
}

function newChunk(part) {
  const element = document.createElement('div');
  element.className = 'chunk';
  return { part, element, rows: [], height: 0, pieces: 0, isDrawn: false, isNew: true };
}

// A step with its heading, or what stands before the first one.
function newPart(head) {
  const part = { head, heading: null, element: document.createElement('section'), isFolded: false, isNew: true };
  partCount += 1;
  if (head) {
    head.isHead = true;
    part.heading = head.element = newHeading(head.step);
    part.element.append(part.heading);
  }
  return part;
}

// Makes a row that is in a chunk already the heading of a new part, which takes what follows.
function split(row) {
  if (row.isHead || partCount >= PARTS_MAX) return;
  const { chunk } = row, { part } = chunk;
  const at = chunks.indexOf(chunk), rest = newChunk(newPart(row));
  rest.rows = chunk.rows.splice(chunk.rows.indexOf(row));
  while (chunk.element.childElementCount > chunk.rows.length - !!chunk.rows[0]?.isHead) chunk.element.lastElementChild.remove();
  for (const it of rest.rows) Object.assign(it, { chunk: rest, pieces: 0, element: it === row ? row.element : null });
  rest.height = (rest.rows.length - 1) * view.lineHeight();
  chunk.height = Math.max(0, chunk.height - rest.rows.length * view.lineHeight());
  for (let n = at + 1; chunks[n]?.part === part; n++) Object.assign(chunks[n], { part: rest.part, isNew: true });
  chunks.splice(at + 1, 0, rest);
  if (!chunk.rows.length) drop(...chunks.splice(at, 1));
}

// Takes a chunk out of the document, and its part with the last one.
function drop(chunk) {
  chunk.element.remove();
  if (chunks.some(({ part }) => part === chunk.part)) return;
  chunk.part.element.remove();
  partCount -= 1;
}

// Takes the oldest lines away while there are too many, but none beyond `limit`, the height above what somebody reads.
export function trim(limit) {
  let count = 0, height = 0;
  while (end - first > LINES_MAX || chars > CHARS_MAX) {
    isFull = true;
    const chunk = chunks[count];
    height += chunk.part.isFolded ? 0 : chunk.height;
    if (height > limit || count === chunks.length - 1) break;
    for (const row of chunk.rows) {
      row.isGone = true;
      chars -= row.text.length;
    }
    first += chunk.rows.length;
    count += 1;
    chunk.element.remove();
    // A part keeps its heading as long as it has lines.
    if (chunks[count].part !== chunk.part) {
      chunk.part.element.remove();
      partCount -= 1;
    }
  }
  if (!count) return;
  chunks = chunks.slice(count);
  heads = {};
  if (errors[0]?.number < first) errors = errors.filter(({ number }) => number >= first);
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

// The row that holds the record of this id, or else the first one behind it.
export function rowOfRecord(id) {
  let holds = null, next = null;
  for (const { rows } of chunks) {
    for (const row of rows) {
      if (row.id === id) return row;
      if (row.id < id && row.last >= id) holds = row;
      if (row.id > id) next ??= row;
    }
  }
  return holds ?? next;
}
