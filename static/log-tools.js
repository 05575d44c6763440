// What helps to read the log: the tools at the end of its bar, the keys, the scroll track with its marks, links to lines, and copying. It is loaded
// behind the lines.

import { icon } from './ansi.js';
import { chunks, errors } from './log-rows.js';
import { currentRow, firstInView, goToEnd, goToTop, isFollowing, placesOf, remeasure, reveal, rowOf, shownRun, stay, whenDrawn } from './log.js';
import { linkProof } from './session.js';
import { LOG } from './words.js';

const MARKS_MS = 250;     // how often the marks of many errors are placed at most
const MARKS_MANY = 500;
const MARK_PX = 3;
const COPIED_MS = 1500;

const $ = (id) => document.getElementById(id);
const log = $('log');

// ---- The tools ---------------------------------------------------------------

function element(name, given, ...children) {
  const made = Object.assign(document.createElement(name), given);
  made.append(...children);
  return made;
}

function tool(id, sign, words, act) {
  const label = element('span', {}, words.replace(/ \(.*/, ''));
  const button = element('button', { type: 'button', id, className: 'ib', title: words, onclick: act }, icon(sign), label);
  button.setAttribute('aria-label', button.textContent);
  return button;
}

const marks = element('button', { type: 'button', id: 'marks', title: LOG.nextError, hidden: true, onclick: () => goToMark(1) });
const follow = tool('follow', 'follow', LOG.follow, () => (isFollowing() ? stay() : goToEnd()));
const times = tool('times', 'waiting', LOG.times, () => toggle('times'));
times.classList.add('desk');
const wrap = tool('wrap', 'wrap', LOG.wrap, () => toggle('wrap'));
const full = tool('full', 'full', LOG.full1, () => fillWindow(!document.body.classList.contains('log-full')));
const get = tool('get', 'get', LOG.get, () => open(get, downloads));
const QUERIES = {
  download: '', 'download-plain': '&timestamps=0', 'download-stdout': '&timestamps=0&stream=stdout', 'download-stderr': '&timestamps=0&stream=stderr',
};
const downloads = element('div', { id: 'downloads' });
downloads.append(...Object.keys(QUERIES).map((id, n) => element('a', { id, textContent: LOG.downloads[n], download: '' })));
const actions = element('div', { id: 'log-actions', role: 'group' }, marks, element('hr'), follow, times, wrap, full, get, downloads);
const more = tool('log-more', 'more', LOG.more, () => open(more, actions));
more.classList.add('phone');
actions.setAttribute('aria-label', LOG.tools);
for (const button of [get, more]) button.setAttribute('aria-expanded', false);
$('log-tools').append(more, actions);
$('log-tools').classList.add('whole');

// Opens or closes what a button leads to.
function open(button, menu, isOpen = button.getAttribute('aria-expanded') !== 'true') {
  const hadFocus = menu.contains(document.activeElement);
  button.setAttribute('aria-expanded', isOpen);
  menu.classList.toggle('open', isOpen);
  if (isOpen) showLinks();
  else if (hadFocus) button.focus();
}

function closeAll(except) {
  for (const [button, menu] of [[get, downloads], [more, actions]]) {
    if (!button.contains(except) && !menu.contains(except)) open(button, menu, false);
  }
}

function showLinks() {
  for (const link of downloads.children) link.setAttribute('href', `api/runs/${shownRun()}/log?download=1${QUERIES[link.id]}${linkProof()}`);
}

document.addEventListener('pointerdown', ({ target }) => closeAll(target));
// A menu that the focus has left would cover what has it now.
$('log-tools').addEventListener('focusout', ({ relatedTarget }) => relatedTarget && closeAll(relatedTarget));
downloads.addEventListener('click', () => closeAll(null));

const chosen = { times: true, wrap: true };

function show(name) {
  (name === 'times' ? times : wrap).setAttribute('aria-pressed', chosen[name]);
  log.classList.toggle(name === 'times' ? 'untimed' : 'nowrap', !chosen[name]);
}

function toggle(name) {
  chosen[name] = !chosen[name];
  show(name);
  remeasure();
  try {
    localStorage.setItem(name, chosen[name]);
  } catch {
    // Where nothing may be kept, it is for this time.
  }
}

for (const name of Object.keys(chosen)) {
  try {
    chosen[name] = localStorage.getItem(name) !== 'false';
  } catch {
    // The same.
  }
  show(name);
}
remeasure();

function fillWindow(isFull) {
  document.body.classList.toggle('log-full', isFull);
  full.setAttribute('aria-pressed', isFull);
  full.title = isFull ? LOG.leaveFull : LOG.full1;
  if (isFull) log.focus({ preventScroll: true });
}

// ---- Errors ------------------------------------------------------------------

let visited = null; // the error that one went to last

function goToMark(step) {
  if (!errors.length) return;
  // From there, as long as it can be seen; else from what is in view.
  const box = visited?.element?.getBoundingClientRect(), view = log.getBoundingClientRect();
  const isSeen = box && box.bottom > view.top && box.top < view.bottom && !visited.isGone;
  const from = isSeen ? visited.number : firstInView() - (step > 0 ? 1 : 0);
  visited = step > 0 ? errors.find(({ number }) => number > from) ?? errors[0] : errors.findLast(({ number }) => number < from) ?? errors.at(-1);
  reveal(visited);
  select(visited);
  $('announce').textContent = `${errors.indexOf(visited) + 1} / ${LOG.marks(errors.length)}: ${visited.text.slice(0, 200)}`;
}

// ---- The scroll track --------------------------------------------------------

const thumb = element('b');
const track = element('div', { id: 'log-track' }, thumb);
track.setAttribute('aria-hidden', true);
$('log-box').append(track);
let placed = '', placedAt = 0, inTrack = [];

function showTrack() {
  const { scrollTop, scrollHeight, clientHeight } = log;
  const isShort = scrollHeight <= clientHeight + 1;
  if (track.hidden !== isShort) track.hidden = isShort;
  if (isShort) return;
  thumb.style.top = `${100 * scrollTop / scrollHeight}%`;
  thumb.style.height = `${100 * clientHeight / scrollHeight}%`;
  const key = `${errors.length} ${errors[0]?.number} ${scrollHeight} ${clientHeight}`;
  if (key === placed || errors.length > MARKS_MANY && performance.now() - placedAt < MARKS_MS) return;
  [placed, placedAt] = [key, performance.now()];
  // One for each place that can be told from the next.
  inTrack = [];
  const tall = track.clientHeight, list = errors.slice();
  placesOf(list).forEach((place, n) => {
    const y = Math.round(place * tall / MARK_PX) * MARK_PX;
    if (inTrack.at(-1)?.y !== y) inTrack.push({ y, row: list[n] });
  });
  while (track.childElementCount - 1 > inTrack.length) track.lastChild.remove();
  while (track.childElementCount - 1 < inTrack.length) track.append(element('i'));
  inTrack.forEach(({ y }, n) => { track.children[n + 1].style.top = `${Math.min(y, tall - MARK_PX)}px`; });
}

track.addEventListener('pointerdown', (event) => {
  if (event.button !== 0) return;
  event.preventDefault();
  const box = track.getBoundingClientRect(), grip = thumb.getBoundingClientRect();
  const near = inTrack.find(({ y }) => Math.abs(event.clientY - box.top - y - MARK_PX / 2) <= 4);
  if (near) {
    visited = near.row;
    reveal(visited);
    select(visited);
    return;
  }
  const isOnThumb = event.clientY >= grip.top && event.clientY <= grip.bottom;
  const hold = isOnThumb ? event.clientY - grip.top : grip.height / 2;
  const move = ({ clientY }) => { log.scrollTop = (clientY - hold - box.top) / box.height * log.scrollHeight; };
  if (!isOnThumb) move(event);
  track.setPointerCapture(event.pointerId);
  track.addEventListener('pointermove', move);
  track.addEventListener('lostpointercapture', () => track.removeEventListener('pointermove', move), { once: true });
});

// ---- Links to lines ----------------------------------------------------------

const copyLink = element('button', { type: 'button', id: 'copy-link', textContent: LOG.copyLink, hidden: true });
// In front of the log, so that the headings in it, which scroll it when they get the focus, are not in between.
log.before(copyLink);
let hovered = null, selected = null, pointed = null, copiedUntil = 0;

function point() {
  const row = hovered ?? selected;
  if (pointed !== row) pointed?.element?.classList.remove('at');
  pointed = row?.element?.isConnected && !row.isGone ? row : null;
  pointed?.element.classList.add('at');
  const box = pointed?.element.getBoundingClientRect(), view = log.getBoundingClientRect();
  // A row that is higher than the view has its button at its first line that is in view.
  const top = box && Math.max(box.top, Math.min(view.top, box.bottom - 18)) - view.top;
  const isHidden = !pointed || top < -4 || top > view.height - 12;
  if (copyLink.hidden !== isHidden) copyLink.hidden = isHidden;
  if (!isHidden) copyLink.style.top = `${top}px`;
}

function select(row) {
  selected = row;
  hovered = null;
  point();
}

log.addEventListener('pointerover', ({ target, pointerType }) => {
  if (pointerType === 'touch') return;
  const row = rowOf(target);
  hovered = row?.isHead ? null : row ?? null;
  point();
});
log.addEventListener('focusin', ({ target }) => { if (target.closest('.row a')) select(rowOf(target)); });
$('log-box').addEventListener('pointerleave', () => {
  hovered = null;
  point();
});
log.addEventListener('click', (event) => {
  if (event.pointerType !== 'touch' || event.target.closest('a, button') || !getSelection().isCollapsed) return;
  const row = rowOf(event.target);
  select(row && row !== selected ? row : null);
});

copyLink.addEventListener('click', async () => {
  const row = pointed;
  if (!row) return;
  const isCopied = await copy(`${location.href.split('#')[0]}#/runs/${row.run}?line=${row.id}`);
  copyLink.textContent = isCopied ? LOG.copied : LOG.notCopied;
  copiedUntil = performance.now() + COPIED_MS;
  setTimeout(() => { if (performance.now() >= copiedUntil) copyLink.textContent = LOG.copyLink; }, COPIED_MS + 10);
});

// Without a secure context there is no clipboard; then a copy is made of nothing, and this text put in its place.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const put = (event) => {
      event.stopImmediatePropagation();
      event.preventDefault();
      event.clipboardData.setData('text/plain', text);
    };
    addEventListener('copy', put, { capture: true, once: true });
    const isCopied = document.execCommand('copy');
    removeEventListener('copy', put, { capture: true });
    return isCopied;
  }
}

// ---- Copying -----------------------------------------------------------------

// The lines as they are read: one each, without times. Lines that are selected without being in the document are copied, too.
document.addEventListener('copy', (event) => {
  const selection = getSelection();
  if (selection.isCollapsed || !log.contains(selection.anchorNode) || !log.contains(selection.focusNode)) return;
  const range = selection.getRangeAt(0), lines = [];
  for (const chunk of chunks) {
    for (const row of chunk.rows) {
      const isIn = row.element ? range.intersectsNode(row.element) : !chunk.part.isFolded && range.intersectsNode(chunk.element);
      if (isIn && !row.isMark) lines.push(row.element && !row.isHead ? within(range, row.element.lastChild) : row.text);
    }
  }
  // A selection often ends in front of the next line's first character.
  if (lines.length > 1 && lines.at(-1) === '') lines.pop();
  event.clipboardData.setData('text/plain', lines.join('\n'));
  event.preventDefault();
});

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
};

addEventListener('keydown', (event) => {
  const { key, target } = event;
  if (event.defaultPrevented || document.querySelector('dialog[open]') || $('pane-log').hidden) return;
  if (key === 'Escape') {
    const button = [get, more].find((it) => it.getAttribute('aria-expanded') === 'true');
    if (button) closeAll(null);
    else if (!target.closest?.('input')) fillWindow(false);
    return;
  }
  if (key === 'a' && (event.ctrlKey || event.metaKey) && target === log) {
    event.preventDefault();
    getSelection().selectAllChildren(log);
  }
  if (event.ctrlKey || event.metaKey || event.altKey || target.closest?.('input, textarea, select, [contenteditable]')) return;
  if (!Object.hasOwn(KEYS, key)) return;
  event.preventDefault();
  KEYS[key]();
});

// ---- With each frame ---------------------------------------------------------

let linksOf = null, lastCurrent = null;

function showAll() {
  if (linksOf !== shownRun()) {
    linksOf = shownRun();
    hovered = selected = visited = null;
    showLinks();
  }
  get.hidden = downloads.hidden = linksOf === null;
  const pressed = String(isFollowing());
  if (follow.getAttribute('aria-pressed') !== pressed) follow.setAttribute('aria-pressed', pressed);
  marks.hidden = !errors.length;
  const words = LOG.marks(errors.length);
  if (marks.textContent !== words) marks.textContent = words;
  // What the search or the address leads to can be linked to by the keyboard as well.
  if (currentRow() !== lastCurrent) selected = lastCurrent = currentRow();
  showTrack();
  point();
}

whenDrawn(showAll);
showAll();
