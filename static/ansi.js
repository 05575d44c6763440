// What a terminal would show of one line: text, and a tone (colour and style) for each of its characters.
//
// Carriage returns, backspaces and the few escapes that move within a line or erase parts of it act as on a terminal. SGR sets the tone. All other
// escapes and control characters are left out. A tone lasts to the end of its line, however many records the line came in, and no further, because
// a page that begins in the middle of a log could not know the earlier tone. Text that an unterminated escape would swallow is shown.
//
// A record can contain thousands of sequences that each erase or move across a whole line. So the cost of one record is limited,
// and once it is spent, further sequences that cost more than a character are ignored.
//
// The second half makes the DOM nodes of such a line, and reads what the line means to the page: a step, progress, an error. All of it examines a
// bounded part of a line, and text gets into the document by textContent only.

import { el, icon, setText, tint, useIcon } from './dom.js';
import { clock, stepWord, visible } from './words.js';

// The most characters of a line that are shown.
const CHARS_MAX = 8000;
// The most that the sequences of one record may cost, in characters.
const COST_MAX = 8 * CHARS_MAX;
// The most codes of one SGR sequence, as in xterm.
const CODES_MAX = 32;
// The cost of finding the nearest of the 16 colours.
const COLOUR_COST = 50;

const CONTROL = /\x1b\[([0-?]*)[ -/]*([@-~])|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\0-\x08\n-\x1f\x7f-\x9f]/g;
// An escape at the end of a record, which the next record may complete.
const UNFINISHED = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)$/;

// Xterm's 16 colours. Other colours are mapped to the nearest of them.
const PALETTE = '000000 cd0000 00cd00 cdcd00 0000ee cd00cd 00cdcd e5e5e5 7f7f7f ff0000 00ff00 ffff00 5c5cff ff00ff 00ffff ffffff'
  .split(' ').map((hex) => hex.match(/../g).map((part) => parseInt(part, 16)));

// The style sheet with the classes of these colours.
const sheet = new CSSStyleSheet();
sheet.replaceSync(PALETTE.map((_, n) => `.fg${n} { --c: var(--c${n}) } .bg${n} { --b: var(--c${n}) }`).join(' '));
document.adoptedStyleSheets.push(sheet);

// A tone's bits: five for the text colour plus one, five for the background colour plus one, then one for each style.
const STYLES = [1, 2, 3, 4, 7], NAMES = ['bold', 'dim', 'italic', 'underline', 'reverse'];
const FIRST_STYLE = 1 << 10;
// By the tens digit of a code: the bit position of its colour in a tone.
const PLACES = { 3: 0, 4: 5, 9: 0, 10: 5 };

// The line that is being written, edited in place: a thousand carriage returns in one record must not copy it a thousand times.
const units = new Uint16Array(CHARS_MAX), tones = new Uint16Array(CHARS_MAX);
let length, column, tone, isCut, left, count = 0;

// The number of steps taken for all records. Tests count steps, because time depends on the machine.
export const steps = () => count;

// Returns an empty line.
export const blank = () => ({ text: '', tones: '', column: 0, tone: 0, rest: '', isCut: false });

// Limits how many marks and other characters of zero width follow each other, as a terminal does: a browser takes seconds to draw thousands of
// them on one character.
const withoutFlood = (text) => text.replace(/(?<=[\p{M}\p{Cf}]{8})[\p{M}\p{Cf}]/gu, '\ufffd');

const toneAt = (all, n) => all.charCodeAt(n) || 0;

// Writes a record to a line. `goesOn`: the next record continues the line.
export function write(line, record, goesOn) {
  let text = line.rest + record, at = 0;
  // The fast path, which most lines take.
  if (!line.text && !line.column && !line.tone && text.length <= CHARS_MAX && text.search(CONTROL) < 0) {
    line.text = withoutFlood(text);
    line.column = text.length;
    line.rest = '';
    return;
  }
  const [end] = (goesOn && UNFINISHED.exec(text)) || [''];
  line.rest = end.length < 200 ? end : '';
  text = text.slice(0, text.length - line.rest.length);
  ({ column, tone, isCut, text: { length } } = line);
  left = COST_MAX;
  count += text.length + 2 * length;
  for (let n = 0; n < length; n++) {
    units[n] = line.text.charCodeAt(n);
    tones[n] = toneAt(line.tones, n);
  }
  for (const found of text.matchAll(CONTROL)) {
    put(text, at, found.index);
    at = found.index + found[0].length;
    obey(found);
  }
  put(text, at, text.length);
  const painted = tones.subarray(0, length);
  line.text = withoutFlood(String.fromCharCode(...units.subarray(0, length)));
  line.tones = painted.some(Boolean) ? String.fromCharCode(...painted) : '';
  Object.assign(line, { column, tone, isCut });
}

function put(text, from, to) {
  if (from >= to) return;
  if (column > length && !spend(column - length)) column = length;
  while (length < column) erase(length++);
  for (let n = from; n < to; n++) {
    if (column >= CHARS_MAX) {
      isCut = true;
      return;
    }
    units[column] = text.charCodeAt(n);
    tones[column++] = tone;
    length = Math.max(length, column);
  }
}

// Charges a cost to the record. Returns false if the record has exceeded its limit.
const spend = (cost) => (left -= cost) >= 0;

function erase(n) {
  count += 1;
  units[n] = 32;
  tones[n] = 0;
}

function obey([all, params, final]) {
  if (all === '\r') column = 0;
  if (all === '\b') column -= 1;
  if (final && !/[<-?]/.test(params)) {
    const number = parseInt(params) || 0, move = number || 1, end = Math.min(length, column + 1);
    if (final === 'm') paint(params.split(';', CODES_MAX));
    if (final === 'C') column += move;
    if (final === 'D') column -= move;
    if (final === 'G') column = move - 1;
    if (final !== 'K' && final !== 'J') ;
    else if (number !== 1) length = number ? 0 : Math.min(length, column);
    else if (spend(end)) for (let n = 0; n < end; n++) erase(n);
  }
  column = Math.max(0, Math.min(CHARS_MAX, column));
}

// ECMA-48, 8.3.117. Colours beyond the 16 are read as xterm reads them, with semicolons or colons.
function paint(codes) {
  while (codes.length) {
    const [code, ...sub] = codes.shift().split(':').map(Number);
    const place = PLACES[Math.floor(code / 10)], digit = code % 10, style = FIRST_STYLE << STYLES.indexOf(code % 20);
    let colour = digit === 9 ? -1 : code < 90 ? digit : digit + 8;
    if (!code) tone = 0;
    else if (code < 28 && STYLES.includes(code % 20)) {
      if (code < 20 && sub[0] !== 0) tone |= style;
      else tone &= ~(code === 22 ? 3 * FIRST_STYLE : style);
    } else if (place !== undefined) {
      if (digit === 8) {
        const args = sub.length ? sub : codes.splice(0, codes[0] === '2' ? 4 : 2).map(Number);
        if (!spend(COLOUR_COST)) return;
        colour = args[0] === 5 ? indexed(args[1]) : args[0] === 2 && args.length > 3 ? nearest(args.slice(-3)) : null;
      }
      if (colour !== null) tone = tone & ~(31 << place) | colour + 1 << place;
    }
  }
}

function indexed(n) {
  if (!(n < 256)) return null;
  if (n < 16) return n;
  return nearest([36, 6, 1].map((unit) => {
    const step = Math.floor((n - 16) / unit) % 6;
    return n > 231 ? 10 * n - 2312 : step && 55 + 40 * step;
  }));
}

function nearest(rgb) {
  count += COLOUR_COST;
  const far = PALETTE.map((colour) => colour.reduce((sum, part, n) => sum + (part - rgb[n]) ** 2, 0));
  return far.indexOf(Math.min(...far));
}

// Returns the CSS classes of a tone.
export function classes(tone) {
  const names = NAMES.filter((_, n) => tone & FIRST_STYLE << n), colour = tone & 31, ground = tone >> 5 & 31;
  if (colour) names.push(`fg${colour - 1}`);
  if (ground) names.push(`bg${ground - 1}`);
  return names.join(' ');
}

// ---- The nodes of a line -----------------------------------------------------------------------------------------------

// The most nodes of one line. Each part with its own style is a node.
const PIECES_MAX = 500;

// Parts with their own elements: addresses, the blocks of progress bars, and characters that change the reading direction.
const TURNS = '\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069', BLOCKS = '\\u2588-\\u2593';
const SPECIAL = new RegExp(`\\bhttps?://(?=[\\p{L}\\d[])[^\\s<>"'\`\\\\^{|}${TURNS}${BLOCKS}]{1,2000}|[${BLOCKS}]+|[${TURNS}]`, 'gu');

// Puts a line's text into `into`, with the matches of `needle` as `mark` elements, and returns the number of nodes. The text after the first
// `most` nodes becomes one node.
function fillLine(into, { text, tones }, most, needle) {
  const hits = needle ? [...text.matchAll(needle)] : [];
  const specials = [...text.matchAll(SPECIAL)].map(({ index, 0: found }) => ({ index, 0: trimmedAddress(found) }));
  let count = 0, at = 0, special, parent = into;
  // Returns the first entry of a list that ends after `at`, or null if it has not begun; and the position where it ends or will begin.
  const next = (list) => {
    while (list.length && list[0].index + list[0][0].length <= at) list.shift();
    const [found] = list;
    return at >= found?.index ? [found, found.index + found[0].length] : [null, found?.index ?? text.length];
  };
  for (; at < text.length && count <= most; count++) {
    const [now, to] = next(specials), [hit, limit] = next(hits);
    const from = at, tone = toneAt(tones, at), end = Math.min(to, limit);
    while (++at < end && toneAt(tones, at) === tone) ;
    if (now !== special) {
      parent = into;
      if (now) {
        const link = now[0];
        // Characters that change the direction are shown as escapes, so that they do not reorder the line.
        parent = link.startsWith('http') ? el('a', { href: link, target: '_blank', rel: 'noopener noreferrer' })
          : el('span', link >= '\u2588' && link < '\u2594' ? 'blocks' : 'turn');
        into.append(parent);
      }
      special = now;
    }
    const part = text.slice(from, at), textContent = parent.className === 'turn' ? visible(part) : part;
    parent.append(tone || hit ? el(hit ? 'mark' : 'span', { className: classes(tone), textContent }) : textContent);
  }
  // A direction character is shown as an escape of eight characters.
  into.append(visible(text.slice(at).replaceAll('\t', ' ')).slice(0, CHARS_MAX - at));
  return count;
}

// Removes the punctuation of the surrounding sentence from the end of an address. Closing brackets stay if the address opened them.
const trimmedAddress = (found) => found.replace(/[.,;:!?*)\]]{1,20}$/, (tail, at) => {
  const head = found.slice(0, at);
  return /^[)\]]*/.exec(tail)[0].slice(0, Math.max(0, head.split(/[([]/).length - head.split(/[)\]]/).length));
});

// ---- The elements of a row ------------------------------------------------------------------------------------------------

// Each row is a div, because copying would add an empty line after each paragraph.
export function newElement({ isMark, isGap, text, stream, ts }) {
  if (isMark) return el('div', isGap ? 'mark gap' : 'mark', text);
  return el('div', `row ${stream}`, ts ? el('time', { dateTime: ts, title: ts }, `${clock(Date.parse(ts))} `) : el('time'), el('span'));
}

// Puts a row's text into its element. Returns the number of nodes, which can exceed `most` by a few.
export function paintRow(row, most, needle) {
  const text = row.element.lastChild, progress = told(row);
  text.className = progress ? 'dim' : row.isCut ? 'cut' : '';
  text.replaceChildren();
  return fillLine(text, progress ? { text: progress, tones: '' } : row, Math.min(PIECES_MAX, most), needle);
}

// Makes the heading of a step, which folds it: icons for folded and for the result, the step's number, its name, and its duration.
export function newHeading(name) {
  return el('h3', 'step', el('button', { type: 'button' }, icon('down'), icon('idle'), el('small'), el('b', '', name.slice(0, 200)), el('span')));
}

// Shows a step's number, its result and its duration.
export function describe(heading, number, tone, words) {
  const [, sign, count, , time] = heading.firstChild.children;
  useIcon(sign, tone, stepWord(tone));
  tint(sign, tone);
  setText(count, `${number ?? ''}`);
  setText(time, words);
}

// ---- What a line means --------------------------------------------------------------------------------------------------

// Returns the name of the step that a line begins, or an empty string.
export const stepName = ({ text }) => /^::step[ \t]+(\S[^]*)/.exec(text)?.[1].trimEnd() ?? '';

// Returns the progress that a line reports, in words, or an empty string.
function told({ text }) {
  const [, percent, words = ''] = /^::progress[ \t]+(\d{1,3}(?:\.\d)?)%?(?:[ \t]+([^]*))?$/.exec(text) ?? [];
  return percent <= 100 ? `${Number(percent)} % ${words.trimEnd()}` : '';
}

// The most characters of a line that are searched for an error.
const LOOK_CHARS = 300;
// The most lines of one traceback.
const BLOCK_LINES = 200;

// A quick test that most lines fail.
const SUSPECT = /err|fat|pan|exc|fail|crit|seg|core/i;
const ERRORS = [
  // A level in capitals, anywhere in the line.
  /(?<![\w.=/-]|\b(?:no|0) )(?:ERROR|FATAL|PANIC|CRITICAL|FAILED|EXCEPTION)(?![\w=/-]|:? *0\b)/,
  // A word at the beginning, or after a bracket or a colon, unless it names a number or is part of another word.
  /^\s*(?:fatal|panic|error|exception)(?=$|[:!\])[(]|\s)(?!:?\s*[-\d.]+%?\s*(?:$|[,;|])|\s*=|\s(?:rates?|counts?|handl\w*|log|bars?|is|was)\b)/i,
  /[\]\[:>|]\s*(?:fatal|panic|error|exception)(?=[:!\]\[]|\s\d+$)(?!:\s*[-\d.]+%?\s*(?:$|[,;|]))/i,
  /(?:^|^E|[\]:>|])\s*(?:\w[\w$]*\.)*[A-Z]\w*(?:Error|Exception)(?=:|\s*$)/,
  /\b(?:level|lvl|severity)"?\s*[=:]\s*"?(?:err(?:or)?|fatal|panic|critical)\b/i,
  /\bthread '[^']*' (?:\(\d+\) )?panicked\b|\bSegmentation fault\b|\bcore dumped\b|\bnpm (?:ERR!|error\s)|\bUncaught \w*(?:Error|Exception)\b/,
];

// Judges whether a line looks like an error. Returns 2 if it begins one, 1 if it continues the error of the previous line, and 0 otherwise.
// `state` is kept from line to line of a stream.
export function judge({ text }, state) {
  const head = text.slice(0, LOOK_CHARS), { left = 0, wasBad = false } = state;
  state.left = 0;
  state.wasBad = true;
  if (/^\s*Traceback \(/.test(head)) state.left = BLOCK_LINES;
  else if (left && head.trim()) state.left = /^[\s|+]/.test(head) ? left - 1 : 0;
  else {
    state.wasBad = SUSPECT.test(head) && ERRORS.some((error) => error.test(head));
    // The message is in the next line.
    if (/panicked at \S+:\d+:$/.test(head)) state.left = 1;
  }
  return state.wasBad ? 2 - wasBad : 0;
}
