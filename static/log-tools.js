// What helps to read the log: the tools at the end of its bar, the keys, the marks in the scroll bar, links to lines, and copying. It is loaded
// behind the lines.

import { icon, make, setText } from './ansi.js';
import { isTyping } from './feed.js';
import { chunks, errors } from './log-rows.js';
import { currentRow, firstInView, goToEnd, goToTop, isFollowing, placesOf, remeasure, reveal, rowOf, shownRun, stay, whenDrawn } from './log.js';
import { linkProof } from './session.js';
import { LOG } from './words.js';

const MARK_PX = 3;
const COPIED_MS = 1500;

const $ = (id) => document.getElementById(id);
const log = $('log');

// ---- The tools ---------------------------------------------------------------

const tool = (id, sign, onclick) => make('button', { type: 'button', id, className: 'ib', title: LOG.tools[id], onclick }, icon(sign));
const marks = make('button', { type: 'button', id: 'marks', title: LOG.nextError, onclick: () => goToMark(1) });
const follow = tool('follow', 'follow', () => (isFollowing() ? stay() : goToEnd()));
const [times, wrap] = [['times', 'waiting', 'untimed'], ['wrap', 'wrap', 'nowrap']].map(([id, sign, off]) => {
  const show = (isOn) => {
    button.setAttribute('aria-pressed', isOn);
    log.classList.toggle(off, !isOn);
    remeasure();
  };
  const button = tool(id, sign, () => {
    const isOn = log.classList.contains(off);
    show(isOn);
    kept(() => localStorage.setItem(id, isOn));
  });
  show(kept(() => localStorage.getItem(id)) !== 'false');
  return button;
});
times.classList.add('desk');
const full = tool('full', 'full', () => fillWindow(!document.body.classList.contains('log-full')));
const get = tool('get', 'get');
const QUERIES = ['', '&timestamps=0', '&timestamps=0&stream=stdout', '&timestamps=0&stream=stderr'];
const downloads = make('div', { id: 'downloads', popover: 'auto', onclick: () => downloads.hidePopover(), onbeforetoggle: showLinks },
  ...['download', 'download-plain', 'download-stdout', 'download-stderr'].map((id, n) => make('a', { id, textContent: LOG.downloads[n], download: '' })));
get.popoverTargetElement = downloads;
$('log-tools').append(make('div', { id: 'log-actions' }, marks, make('hr'), follow, times, wrap, full, get, downloads));

// Where nothing may be kept, a choice is for this time.
function kept(use) {
  try {
    return use();
  } catch {
    return null;
  }
}

function showLinks() {
  const { bottom, left } = get.getBoundingClientRect();
  Object.assign(downloads.style, { top: `${bottom + 4}px`, left: `${Math.min(left, innerWidth - 212)}px` });
  QUERIES.forEach((query, n) => downloads.children[n].setAttribute('href', `api/runs/${shownRun()}/log?download=1${query}${linkProof()}`));
}

function fillWindow(isFull) {
  document.body.classList.toggle('log-full', isFull);
  full.setAttribute('aria-pressed', isFull);
  full.title = isFull ? LOG.leaveFull : LOG.tools.full;
  if (isFull) log.focus({ preventScroll: true });
}

// ---- Errors ------------------------------------------------------------------

// The error that one went to last.
let visited = null;

function goToMark(step) {
  if (!errors.length) return;
  // From there, as long as it can be seen; else from what is in view.
  const box = visited?.element?.getBoundingClientRect(), view = log.getBoundingClientRect();
  const from = box?.bottom > view.top && box.top < view.bottom ? visited.number : firstInView() - (step > 0);
  visit((step > 0 ? errors.find(({ number }) => number > from) : errors.findLast(({ number }) => number < from)) ?? errors.at(step > 0 ? 0 : -1));
  $('announce').textContent = `${errors.indexOf(visited) + 1} / ${LOG.marks(errors.length)}: ${visited.text.slice(0, 200)}`;
}

function visit(row) {
  visited = row;
  reveal(row);
  select(row);
}

const track = make('div', { id: 'log-track', ariaHidden: true });
log.after(track);
let placed = '';

// Puts marks into the scroll bar: one for each place that can be told from the next.
function showTrack() {
  const { scrollHeight, clientHeight } = log;
  const key = [errors.length, errors[0]?.number, scrollHeight, clientHeight].join();
  if (key === placed) return;
  placed = key;
  const found = new Map();
  if (scrollHeight > clientHeight) placesOf(errors).forEach((place, n) => found.set(Math.floor(place * clientHeight / MARK_PX) * MARK_PX, errors[n]));
  track.replaceChildren(...[...found].map(([y, row]) => {
    const mark = make('i', { onclick: () => visit(row) });
    mark.style.top = `${y}px`;
    return mark;
  }));
}

// ---- Links to lines ----------------------------------------------------------

const copyLink = make('button', { type: 'button', id: 'copy-link', textContent: LOG.copyLink, hidden: true });
// In front of the log, so that the headings in it, which scroll it when they get the focus, are not in between.
log.before(copyLink);
let hovered = null, selected = null, pointed = null, timer;

function point() {
  const row = hovered ?? selected;
  pointed?.element?.classList.remove('at');
  pointed = row?.element?.isConnected ? row : null;
  pointed?.element.classList.add('at');
  const box = pointed?.element.getBoundingClientRect(), view = log.getBoundingClientRect();
  // A row that is higher than the view has its button at its first line that is in view.
  const top = box && Math.max(box.top, Math.min(view.top, box.bottom - 18)) - view.top;
  copyLink.hidden = !(top >= -4 && top <= view.height - 12);
  copyLink.style.top = `${top}px`;
}

function select(row) {
  [selected, hovered] = [row, null];
  point();
}

function hover(row) {
  hovered = row?.isHead ? null : row;
  point();
}

log.addEventListener('pointerover', ({ target, pointerType }) => pointerType !== 'touch' && hover(rowOf(target)));
$('log-box').addEventListener('pointerleave', () => hover(null));
log.addEventListener('focusin', ({ target }) => target.closest('.row a') && select(rowOf(target)));
log.addEventListener('click', ({ pointerType, target }) => {
  if (pointerType !== 'touch' || target.closest('a, button') || !getSelection().isCollapsed) return;
  const row = rowOf(target);
  select(row === selected ? null : row);
});

copyLink.addEventListener('click', async () => {
  const isCopied = await copy(`${location.href.split('#')[0]}#/runs/${pointed.run}?line=${pointed.id}`);
  copyLink.textContent = isCopied ? LOG.copied : LOG.notCopied;
  clearTimeout(timer);
  timer = setTimeout(() => { copyLink.textContent = LOG.copyLink; }, COPIED_MS);
});

// ---- Copying -----------------------------------------------------------------

// What is copied in place of the selection.
let instead = null;

// Without a secure context there is no clipboard; then a copy is made of nothing, and this text put in its place.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    instead = text;
    const isCopied = document.execCommand('copy');
    instead = null;
    return isCopied;
  }
}

// The lines as they are read: one each, without times. Lines that are selected without being in the document are copied, too.
document.addEventListener('copy', (event) => {
  const selection = getSelection(), range = selection.rangeCount && selection.getRangeAt(0);
  if (instead === null && (selection.isCollapsed || !log.contains(range.commonAncestorContainer))) return;
  event.clipboardData.setData('text/plain', instead ?? linesIn(range).join('\n'));
  event.preventDefault();
});

function linesIn(range) {
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

// ---- Keys --------------------------------------------------------------------

const KEYS = {
  g: goToTop, G: goToEnd, f: () => follow.click(), t: () => times.click(), w: () => wrap.click(), e: () => goToMark(1), E: () => goToMark(-1),
  Escape: () => fillWindow(false),
};

addEventListener('keydown', (event) => {
  const { key, defaultPrevented } = event;
  if (defaultPrevented || isTyping(event) || document.querySelector('dialog[open]') || $('pane-log').hidden || !Object.hasOwn(KEYS, key)) return;
  if (key !== 'Escape') event.preventDefault();
  KEYS[key]();
});

// ---- With each frame ---------------------------------------------------------

let linksOf, lastCurrent = null;

function showAll() {
  if (linksOf !== shownRun()) {
    linksOf = shownRun();
    hovered = selected = visited = null;
    showLinks();
  }
  get.hidden = linksOf === null;
  follow.setAttribute('aria-pressed', isFollowing());
  marks.hidden = !errors.length;
  setText(marks, LOG.marks(errors.length));
  // What the search or the address leads to can be linked to by the keyboard as well.
  if (currentRow() !== lastCurrent) selected = lastCurrent = currentRow();
  showTrack();
  point();
}

whenDrawn(showAll);
showAll();
