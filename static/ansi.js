// What a terminal would show of one line: text, and a tone (colour and style) for each of its characters.
//
// A carriage return, a backspace and the few escapes that move within a line or erase it act as on a terminal; SGR chooses the tone; every
// other escape and control character is left out. A tone lasts to the end of its line, however many records that came in, and no further:
// a page that begins in the middle of a log could not know better. What an escape without an end would swallow is shown.
//
// A record can contain thousands of sequences that each erase or move across a whole line. So the cost of one record is limited,
// and once it is spent, further sequences that cost more than a character are ignored.
//
// Below that: the DOM nodes of such a line, and what its words mean to the page: a step, progress, an error. All of it looks at a bounded part
// of a line, and text gets into the document by textContent only.

import { HUES, clock, visible } from './words.js';

const CHARS_MAX = 8000; // of one line shown
const COST_MAX = 8 * CHARS_MAX; // of the sequences of one record, in characters
const CODES_MAX = 32;   // of one SGR sequence, as in xterm
const COLOUR_COST = 50; // of finding the nearest of 16 colours

const CONTROL = /\x1b\[([0-?]*)[ -/]*([@-~])|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\0-\x08\n-\x1f\x7f-\x9f]/g;
const ANY_CONTROL = /[\0-\x08\n-\x1f\x7f-\x9f]/;
// An escape that the next record may end.
const UNFINISHED = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)$/;

// Xterm's colours: what others are brought to.
const PALETTE = ['000000', 'cd0000', '00cd00', 'cdcd00', '0000ee', 'cd00cd', '00cdcd', 'e5e5e5',
  '7f7f7f', 'ff0000', '00ff00', 'ffff00', '5c5cff', 'ff00ff', '00ffff', 'ffffff'].map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

// A tone's bits: five for the colour plus one and five for the background's, then these.
const STYLES = { 1: 1 << 10, 2: 1 << 11, 3: 1 << 12, 4: 1 << 13, 7: 1 << 14 };
const NAMES = [[1 << 10, 'bold'], [1 << 11, 'dim'], [1 << 12, 'italic'], [1 << 13, 'underline'], [1 << 14, 'reverse']];

// The line at work, in place: a thousand returns in one record must not copy it a thousand times.
const units = new Uint16Array(CHARS_MAX), tones = new Uint16Array(CHARS_MAX);
let length, column, tone, isCut, left;
let count = 0;

// The number of steps taken for all records. Tests count steps, because time depends on the machine.
export const steps = () => count;

// A line without anything.
export function blank() {
  return { text: '', tones: '', column: 0, tone: 0, rest: '', isCut: false };
}

// Adds what a record has to say to a line.
export function write(line, record, goesOn) {
  let text = line.rest + record;
  if (!ANY_CONTROL.test(text) && !line.tones && !line.tone && line.column === line.text.length && line.column + text.length <= CHARS_MAX) {
    line.text += text;
    line.column = line.text.length;
    return;
  }
  line.rest = '';
  const end = goesOn && UNFINISHED.exec(text);
  if (end && end[0].length < 200) {
    line.rest = end[0];
    text = text.slice(0, end.index);
  }
  ({ column, tone, isCut } = line);
  left = COST_MAX;
  length = line.text.length;
  count += text.length + 2 * length;
  for (let n = 0; n < length; n++) {
    units[n] = line.text.charCodeAt(n);
    tones[n] = line.tones.charCodeAt(n) || 0;
  }
  let at = 0;
  for (const found of text.matchAll(CONTROL)) {
    put(text, at, found.index);
    at = found.index + found[0].length;
    obey(found);
  }
  put(text, at, text.length);
  const shown = units.subarray(0, length), painted = tones.subarray(0, length);
  // What was written over may have been half of a character.
  line.text = String.fromCharCode.apply(null, shown);
  line.text = line.text.toWellFormed?.() ?? line.text;
  line.tones = painted.some(Boolean) ? String.fromCharCode.apply(null, painted) : '';
  Object.assign(line, { column, tone, isCut });
}

function put(text, from, to) {
  if (from >= to) return;
  if (column > length && !spend(column - length)) column = length;
  for (; length < column; length++) erase(length);
  for (let n = from; n < to; n++) {
    if (column >= CHARS_MAX) {
      isCut = true;
      return;
    }
    units[column] = text.charCodeAt(n);
    tones[column++] = tone;
    if (column > length) length = column;
  }
}

// Charges a cost to the record. False if the record has exceeded its limit.
function spend(cost) {
  left -= cost;
  return left >= 0;
}

function erase(n) {
  count += 1;
  units[n] = 32;
  tones[n] = 0;
}

function obey([all, params, final]) {
  if (all === '\r') column = 0;
  if (all === '\b') column = Math.max(0, column - 1);
  if (!final || /[<-?]/.test(params)) return;
  const number = parseInt(params, 10) || 0;
  const move = Math.max(1, number);
  if (final === 'm') tone = paint(tone, params);
  if (final === 'C') column = Math.min(CHARS_MAX, column + move);
  if (final === 'D') column = Math.max(0, column - move);
  if (final === 'G') column = Math.min(CHARS_MAX, move - 1);
  if (final !== 'K' && final !== 'J') return;
  const end = Math.min(length, column + 1);
  if (number !== 1) length = number ? 0 : Math.min(length, column);
  else if (spend(end)) for (let n = 0; n < end; n++) erase(n);
}

// ECMA-48, 8.3.117; colours beyond the 16 as xterm takes them, with semicolons or colons.
function paint(before, params) {
  let now = before;
  const codes = params.split(';', CODES_MAX);
  for (let n = 0; n < codes.length; n++) {
    const [code, ...sub] = codes[n].split(':').map(Number);
    if (code === 0) now = 0;
    else if (code === 4 && sub[0] === 0) now &= ~STYLES[4];
    else if (STYLES[code]) now |= STYLES[code];
    else if (code === 22) now &= ~(STYLES[1] | STYLES[2]);
    else if (STYLES[code - 20]) now &= ~STYLES[code - 20];
    else if (code >= 30 && code <= 37) now = coloured(now, 0, code - 30);
    else if (code >= 90 && code <= 97) now = coloured(now, 0, code - 82);
    else if (code >= 40 && code <= 47) now = coloured(now, 5, code - 40);
    else if (code >= 100 && code <= 107) now = coloured(now, 5, code - 92);
    else if (code === 39) now = coloured(now, 0, -1);
    else if (code === 49) now = coloured(now, 5, -1);
    else if (code === 38 || code === 48) {
      const args = sub.length ? sub : codes.slice(n + 1, n + (codes[n + 1] === '2' ? 5 : 3)).map(Number);
      if (!sub.length) n += args.length;
      if (!spend(COLOUR_COST)) return now;
      const colour = args[0] === 5 ? indexed(args[1]) : args[0] === 2 && args.length > 3 ? nearest(args.slice(-3)) : null;
      if (colour !== null) now = coloured(now, code === 38 ? 0 : 5, colour);
    }
  }
  return now;
}

function coloured(now, shift, colour) {
  return now & ~(31 << shift) | colour + 1 << shift;
}

function indexed(n) {
  if (!(n >= 0 && n < 256)) return null;
  if (n < 16) return Math.floor(n);
  if (n > 231) return nearest([8, 8, 8].map((base) => base + 10 * (n - 232)));
  return nearest([36, 6, 1].map((unit) => Math.floor((n - 16) / unit) % 6).map((step) => step && 55 + 40 * step));
}

function nearest(rgb) {
  count += COLOUR_COST;
  const far = PALETTE.map((colour) => colour.reduce((sum, part, n) => sum + (part - rgb[n]) ** 2, 0));
  const best = far.indexOf(Math.min(...far));
  return best < 0 ? null : best;
}

// The classes of a tone.
export function classes(tone) {
  const names = NAMES.filter(([bit]) => tone & bit).map(([, name]) => name);
  if (tone & 31) names.push(`fg${(tone & 31) - 1}`);
  if (tone >> 5 & 31) names.push(`bg${(tone >> 5 & 31) - 1}`);
  return names.join(' ');
}

// ---- The nodes of a line -----------------------------------------------------------------------------------------------

const LINKS_MAX = 50; // of one line

// What is drawn in a way of its own: addresses, the blocks of progress bars, and characters that change the reading direction.
const TURNS = '\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069', BLOCKS = '\\u2588-\\u2593';
const SPECIAL = new RegExp(`\\bhttps?://[^\\s<>"'\`\\\\^{|}${TURNS}${BLOCKS}]{1,2000}|[${BLOCKS}]+|[${TURNS}]`, 'g');

// Puts a line's text into `into`, with what `needle` matches as `mark` elements, and returns the number of nodes. Text behind the first
// `most` nodes becomes one node.
function fill(into, { text, tones }, most, needle) {
  const hits = needle ? [...text.matchAll(needle)] : [];
  let count = 0, hit = 0, links = 0, at = 0;
  const put = (to, parent) => {
    while (at < to) {
      const from = at;
      while (hits[hit] && hits[hit].index + hits[hit][0].length <= from) hit += 1;
      const { index = Infinity, 0: { length } = '' } = hits[hit] ?? {};
      const isHit = from >= index && count <= most;
      const tone = tones.charCodeAt(from) || 0;
      const limit = count > most ? to : Math.min(to, isHit ? index + length : index);
      for (at = from + 1; at < limit && (count > most || (tones.charCodeAt(at) || 0) === tone);) at += 1;
      let node = text.slice(from, at);
      if (tone || isHit) {
        node = document.createElement(isHit ? 'mark' : 'span');
        node.className = classes(tone);
        node.textContent = text.slice(from, at);
      }
      parent.append(node);
      count += 1;
    }
  };
  for (const { index, 0: found } of text.matchAll(SPECIAL)) {
    if (count > most) break;
    put(index, into);
    const link = found.startsWith('http') && links < LINKS_MAX ? address(found) : '';
    const element = document.createElement(link ? 'a' : 'span');
    let end = index + found.length;
    if (link) {
      links += 1;
      end = index + link.length;
      Object.assign(element, { href: link, target: '_blank', rel: 'noopener noreferrer' });
    } else if (found.startsWith('http')) continue;
    else if (found >= '\u2588' && found <= '\u2594') element.className = 'blocks';
    else {
      // Shown in place of acting: nothing may turn a line round.
      element.className = 'turn';
      element.textContent = visible(found);
      at = end;
      count += 1;
    }
    put(end, element);
    into.append(element);
  }
  if (count > most) into.append(visible(text.slice(at).replaceAll('\t', ' ')));
  else put(text.length, into);
  return count;
}

// An address without the punctuation of the sentence that it stands in; empty if it is none.
function address(found) {
  let link = found;
  for (let round = 0; round < 9; round++) {
    const last = link.at(-1), opens = { ')': '(', ']': '[' }[last];
    if (!'.,;:!?*'.includes(last) && !(opens && link.split(last).length > link.split(opens).length)) break;
    link = link.slice(0, -1);
  }
  try {
    return new URL(link) && link;
  } catch {
    return '';
  }
}

// ---- The elements of a row ------------------------------------------------------------------------------------------------

const PIECES_MAX = 500; // of one line, each with its own looks

// A div, not a paragraph, because copying would add an empty line after each.
export function newElement(row) {
  const element = document.createElement('div');
  if (row.isMark) {
    element.className = row.isGap ? 'mark gap' : 'mark';
    element.textContent = row.text;
    return element;
  }
  element.className = row.stream === 'stderr' ? 'row stderr' : 'row';
  const time = document.createElement('time');
  if (row.ts) {
    time.textContent = `${clock(Date.parse(row.ts))} `;
    time.dateTime = time.title = row.ts;
  }
  element.append(time, document.createElement('span'));
  return element;
}

// Puts a row's text into its element. Returns the number of nodes, which is `most` at most and a few.
export function paintRow(row, most, needle) {
  const text = row.element.lastChild, progress = told(row);
  text.className = progress ? 'dim' : row.isCut ? 'cut' : '';
  text.replaceChildren();
  return fill(text, progress ? { text: progress, tones: '' } : row, Math.min(PIECES_MAX, most), needle);
}

// The heading of a step, which folds it: signs of whether it is folded and how it went, its number, its name, and how long it took.
export function newHeading(name) {
  const [heading, button] = [document.createElement('h3'), document.createElement('button')];
  heading.className = 'step';
  button.type = 'button';
  button.setAttribute('aria-expanded', true);
  button.append(icon('down'), icon('idle'), ...['small', 'b', 'span'].map((tag) => document.createElement(tag)));
  button.children[3].textContent = visible(name.slice(0, 200));
  heading.append(button);
  return heading;
}

// Shows a step's number, how it went, and how long it took.
export function describe(heading, number, tone, words) {
  const [, sign, count, , time] = heading.firstElementChild.children;
  const use = sign.firstElementChild, name = `#i-${tone}`;
  if (use.getAttribute('href') !== name) {
    use.setAttribute('href', name);
    sign.setAttribute('class', `i ${HUES[tone] ?? 'idle'}`);
  }
  for (const [element, text] of [[count, number ?? ''], [time, words]]) {
    if (element.textContent !== String(text)) element.textContent = text;
  }
}

export function icon(name) {
  const [svg, use] = ['svg', 'use'].map((tag) => document.createElementNS('http://www.w3.org/2000/svg', tag));
  svg.setAttribute('class', 'i');
  svg.setAttribute('aria-hidden', true);
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

// ---- What a line says ---------------------------------------------------------------------------------------------------

// The name of the step that a line begins; empty if it begins none.
export const stepName = ({ text }) => (text.startsWith('::step') ? /^::step[ \t]+(\S.*?)[ \t]*$/.exec(text)?.[1] ?? '' : '');

// What a line tells of the progress, in words; empty if nothing.
export function told({ text }) {
  const found = text.startsWith('::progress') ? /^::progress[ \t]+(\d{1,3}(?:\.\d)?)%?(?:[ \t]+(\S.*?))?[ \t]*$/.exec(text) : null;
  return found && Number(found[1]) <= 100 ? `${Number(found[1])} % ${found[2] ?? ''}` : '';
}

const LOOK_CHARS = 300;   // of a line, when errors are looked for
const BLOCK_LINES = 200;  // of one traceback

// Most lines fail this one, which is quick.
const SUSPECT = /err|fatal|panic|exception|traceback|fail|critical|segmentation|core dumped/i;
const ERRORS = [
  // A level in capitals, wherever it stands.
  /(?<![\w.=/-]|\b(?:no|0) )(?:ERROR|FATAL|PANIC|CRITICAL|FAILED|EXCEPTION)(?![\w=/-]|:? *0\b)/,
  // A word at the beginning, or behind a bracket or a colon; but neither a number's name nor a part of another word.
  /^\s*(?:fatal|panic|error|exception)(?=$|[:!\])\[(]|\s)(?!:?\s*[-\d.]+%?\s*(?:$|[,;|])|\s*=|\s(?:rates?|counts?|handl\w*|log|bars?|is|was)\b)/i,
  /[\]\[:>|]\s*(?:fatal|panic|error|exception)(?=[:!\]\[]|\s\d+$)(?!:\s*[-\d.]+%?\s*(?:$|[,;|]))/i,
  /(?:^|^E|[\]:>|])\s*(?:\w[\w$]*\.)*[A-Z]\w*(?:Error|Exception)(?=:|\s*$)/,
  /\b(?:level|lvl|severity)"?\s*[=:]\s*"?(?:error|err|fatal|panic|critical)\b/i,
  /\bthread '[^']*' (?:\(\d+\) )?panicked\b|\bSegmentation fault\b|\bcore dumped\b|\bnpm (?:ERR!|error\s)|\bUncaught \w*(?:Error|Exception)\b/,
];

// Whether a line looks like an error: 0: no, 2: it begins one, 1: it goes on with the one of the line before it. `state` is kept from one line
// of a stream to the next.
export function judge({ text }, state) {
  const head = text.slice(0, LOOK_CHARS);
  const { left = 0, wasBad = false } = state;
  let isBad = true;
  state.left = 0;
  if (/^\s*Traceback \(/.test(head)) state.left = BLOCK_LINES;
  else if (left && head.trim()) state.left = /^[\s|+]/.test(head) ? left - 1 : 0;
  else {
    isBad = SUSPECT.test(head) && ERRORS.some((error) => error.test(head));
    // Its message is in the next line.
    if (isBad && /panicked at \S+:\d+:$/.test(head)) state.left = 1;
  }
  state.wasBad = isBad;
  return isBad ? 2 - wasBad : 0;
}
