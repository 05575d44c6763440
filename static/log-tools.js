// What helps to read the log: the tools at the end of its bar, the keys, links to lines, copying, and the search in
// the run that is shown. The lines that are loaded are searched by the page, a few milliseconds at a time, so that a hundred thousand lines do not
// keep it waiting, and new lines as they come. The others are searched by the server, which is also the judge of regular expressions: the page
// marks with its own only where that can't take long.
//
// `searchedTo` divides the log. Up to there the server's count is valid, behind it the page's own.

import { $, el, icon, setText } from './dom.js';
import { isTyping } from './feed.js';
import { attach, errorRows, firstFrom, linesIn, rowAt, rowBounds, rowOfRecord } from './log-rows.js';
import {
  chosenRow, firstInView, goToEnd, goToTop, isFollowing, isWhole, log, markHits, remeasure, reveal, rowOf, shownRun, stayHere, whenDrawn,
} from './log.js';
import { COPIED_MS } from './parts.js';
import { ANSWER_MS, linkProof } from './session.js';
import { FIND, LOG, visible } from './words.js';

// Of a line, for a screen reader.
const TOLD_CHARS = 200;
// What the page's search may take at once, and how long typing must rest before the server is asked.
const SLICE_MS = 8, REST_MS = 300;
// Matches that can be gone to where they are not loaded, and how many one answer lists; the count goes on.
const LISTED_MAX = 10000, LIST_LINES = 1000;
const SEARCH_RETRY_MS = 1500;
// Of the page's regular expression in one line, and characters of a line that such an expression is used on.
const STEPS_MAX = 2e7, TEXT_MAX = 2000;
// One that took longer in a line is not used any more.
const SLOW_MS = 20;

// ---- The tools ---------------------------------------------------------------

const makeTool = (id, sign, onclick) => el('button', { type: 'button', id, className: 'ib', title: LOG.tools[id], onclick }, icon(sign));
const marksTool = el('button', { type: 'button', id: 'marks', title: LOG.nextError, onclick: () => goToMark(1) });
const followTool = makeTool('follow', 'follow', () => (isFollowing() ? stayHere() : goToEnd()));
const [timesTool, wrapTool] = [['times', 'waiting', 'untimed'], ['wrap', 'wrap', 'nowrap']].map(([id, sign, off]) => {
  const show = (isOn) => {
    button.setAttribute('aria-pressed', isOn);
    log.classList.toggle(off, !isOn);
    remeasure();
  };
  const button = makeTool(id, sign, () => {
    const isOn = log.classList.contains(off);
    show(isOn);
    inStorage(() => localStorage.setItem(id, isOn));
  });
  show(inStorage(() => localStorage.getItem(id)) !== 'false');
  return button;
});
timesTool.classList.add('desk');
const fullTool = makeTool('full', 'full', () => fillWindow(!document.body.classList.contains('log-full')));
const getTool = makeTool('get', 'get');
const QUERIES = ['', '&timestamps=0', '&timestamps=0&stream=stdout', '&timestamps=0&stream=stderr'];
const IDS = ['download', 'download-plain', 'download-stdout', 'download-stderr'];
const downloads = el('div', { id: 'downloads', popover: 'auto', onclick: () => downloads.hidePopover(), onbeforetoggle: showLinks },
  ...IDS.map((id, n) => el('a', { id, textContent: LOG.downloads[n], download: '' })));
getTool.popoverTargetElement = downloads;
$('log-tools').append(el('div', { id: 'log-actions' }, marksTool, el('hr'), followTool, timesTool, wrapTool, fullTool, getTool, downloads));

// Where nothing may be kept, a choice is for this time.
function inStorage(use) {
  try {
    return use();
  } catch {
    return null;
  }
}

function showLinks() {
  const { bottom, left } = getTool.getBoundingClientRect();
  Object.assign(downloads.style, { top: `${bottom + 4}px`, left: `${Math.min(left, innerWidth - 212)}px` });
  QUERIES.forEach((query, n) => downloads.children[n].setAttribute('href', `api/runs/${shownRun}/log?download=1${query}${linkProof()}`));
}

function fillWindow(isFull) {
  document.body.classList.toggle('log-full', isFull);
  fullTool.setAttribute('aria-pressed', isFull);
  if (isFull) log.focus({ preventScroll: true });
}

function goToMark(step) {
  if (!errorRows.length) return;
  // From where one was led last, as long as it can be seen; else from what is in view.
  const box = chosenRow?.element?.getBoundingClientRect(), { top, bottom } = log.getBoundingClientRect();
  const from = box?.bottom > top && box.top < bottom ? chosenRow.number : firstInView() - (step > 0);
  const at = firstFrom(errorRows, ({ number }) => number < from + (step > 0)) - (step < 0), row = errorRows[at] ?? errorRows.at(step > 0 ? 0 : -1);
  reveal(row);
  announce(`${errorRows.indexOf(row) + 1} / ${LOG.marks(errorRows.length)}: ${row.text.slice(0, TOLD_CHARS)}`);
}

const announce = (words) => { $('announce').textContent = words; };

// ---- Links to lines ----------------------------------------------------------

const copyLink = el('button', { type: 'button', id: 'copy-link', textContent: LOG.copyLink, hidden: true });
// In front of the log, so that the headings in it, which scroll it when they get the focus, are not in between.
log.before(copyLink);
let hovered = null, selected = null, pointed = null, copyTimer;

function pointAt() {
  const row = hovered ?? selected;
  pointed?.element?.classList.remove('at');
  pointed = row?.element?.isConnected ? row : null;
  pointed?.element.classList.add('at');
  const box = pointed?.element.getBoundingClientRect(), { top: edge, height } = log.getBoundingClientRect();
  // A row that is higher than the view has its button at its first line that is in view.
  const top = box && Math.max(box.top, Math.min(edge, box.bottom - 18)) - edge;
  copyLink.hidden = !(top >= -4 && top <= height - 12);
  copyLink.style.top = `${top}px`;
}

function hoverRow(row, isChosen) {
  hovered = row?.isHead ? null : row;
  if (isChosen) [selected, hovered] = [row, null];
  pointAt();
}

log.addEventListener('pointerover', ({ target, pointerType }) => pointerType !== 'touch' && hoverRow(rowOf(target)));
$('log-box').addEventListener('pointerleave', () => hoverRow(null));
log.addEventListener('focusin', ({ target }) => target.closest('.row a') && hoverRow(rowOf(target), true));
log.addEventListener('click', ({ pointerType, target }) => {
  if (pointerType !== 'touch' || target.closest('a, button') || !getSelection().isCollapsed) return;
  const row = rowOf(target);
  hoverRow(row === selected ? null : row, true);
});

copyLink.onclick = async () => {
  const isCopied = await copyText(`${location.href.split('#')[0]}#/runs/${pointed.run}?line=${pointed.id}`);
  copyLink.textContent = isCopied ? LOG.copied : LOG.notCopied;
  clearTimeout(copyTimer);
  copyTimer = setTimeout(() => { copyLink.textContent = LOG.copyLink; }, COPIED_MS);
};

// ---- Copying -----------------------------------------------------------------

// What is copied in place of the selection.
let instead = null;
// Without a secure context there is no clipboard; then a copy is made of nothing, and this text put in its place.
async function copyText(text) {
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

document.addEventListener('copy', (event) => {
  const selection = getSelection(), range = selection.rangeCount && selection.getRangeAt(0);
  if (instead === null && (selection.isCollapsed || !log.contains(range.commonAncestorContainer))) return;
  event.clipboardData.setData('text/plain', instead ?? linesIn(range).join('\n'));
  event.preventDefault();
});

// ---- Keys --------------------------------------------------------------------

const KEYS = {
  g: goToTop, G: goToEnd, f: () => followTool.click(), t: () => timesTool.click(), w: () => wrapTool.click(), e: () => goToMark(1),
  E: () => goToMark(-1), Escape: () => fillWindow(false),
};

addEventListener('keydown', (event) => {
  const { key } = event;
  if (isTyping(event) || $('pane-log').hidden || !Object.hasOwn(KEYS, key)) return;
  if (key !== 'Escape') event.preventDefault();
  KEYS[key]();
});

let linksOf, led = null;

// With each frame.
function showTools() {
  if (linksOf !== shownRun) {
    linksOf = shownRun;
    hovered = selected = null;
    showLinks();
  }
  getTool.hidden = linksOf === null;
  followTool.setAttribute('aria-pressed', isFollowing());
  marksTool.hidden = !errorRows.length;
  setText(marksTool, LOG.marks(errorRows.length));
  // What one was led to can be linked to by the keyboard as well.
  if (chosenRow !== led) selected = led = chosenRow;
  pointAt();
}

whenDrawn(showTools);
showTools();

// ---- The search --------------------------------------------------------------

// How long a line may be for this regular expression, so that JavaScript's backtracking takes no more than STEPS_MAX steps. A repeated group
// can take exponentially many, and is left to the server.
function longestFor(pattern) {
  const bare = pattern.replace(/\\[^]|\[(?:\\[^]|[^\]\\])*\]/g, 'x').replace(/\(\?/g, '(').replace(/([*+?}])\?/g, '$1');
  return /\)[*+{]/.test(bare) ? 0 : Math.min(TEXT_MAX, STEPS_MAX ** (1 / bare.split(/[*+?{]/).length));
}

// `ask` is a request as app.js makes it, `goTo` loads the lines around one, `choose` shows the lines of one stream, `adjust` keeps the text in
// the address, and `where` tells the run, the stream and up to which id lines are loaded.
export function makeFinder({ ask, goTo, choose, adjust, where }) {
  const [box, field, opener, streams, ...toggles] = ['finder', 'find', 'find-open', 'stream', 'find-regex', 'find-case'].map($);
  const isTrue = (element, name) => element.getAttribute(name) === 'true';
  // What is looked for, the text that the address names, and what is wrong with the regular expression.
  let text = '', sought = '', problem = '', isRegex = false, matchesCase = false;
  // The page's own expression, if it has one that may be used, and the longest line that it may be used on.
  let regex = null, charsMax = 0;
  // The loaded rows that match, in order; which one is the current; and from which number on rows were not tested yet.
  let found = [], current = null, tested = 0, isLooking = false;
  // Whether typing rests, the server searches, or could not, and whether the count was told.
  let timer, abort, keeping, isResting = false, isSearching = false, isPart = false, isTold = false;
  // The server's matches, complete up to that place.
  let listed = [], listedTo = 0, searchedTo = 0, total = 0;
  // Lines that the server found and the page can't test, whether some of them are not marked yet, and the step that waits for a match.
  const texts = new Set();
  let isStale = false, isGoing = false, wanted = 0;
  const canTest = (line) => regex && line.length <= charsMax;
  // Stands for a regular expression in the log's `matchAll` and in `search`, and bounds what it may cost.
  const seeker = {
    [Symbol.search]: (line) => (canTest(line) ? timed(() => line.search(regex)) : texts.has(line) - 1),
    [Symbol.matchAll]: (line) => (canTest(line) ? timed(() => [...line.matchAll(regex)].filter(([hit]) => hit))
      : texts.has(line) ? [{ index: 0, 0: line }] : []),
  };

  function timed(test) {
    const began = performance.now(), result = test();
    if (isRegex && performance.now() - began > SLOW_MS) {
      regex = null;
      setTimeout(retest);
    }
    return result;
  }

  function matches(row) {
    if (row.isMark) return false;
    if (!canTest(row.text) && !texts.has(row.text)) {
      const match = listed[firstFrom(listed, ({ id }) => id < row.id)];
      if (match?.id <= row.last && match.stream === row.stream) {
        texts.add(row.text);
        isStale = true;
      }
    }
    return row.text.search(seeker) >= 0;
  }

  attach({
    changed(row) {
      if (!text) return;
      if (row.number < tested) {
        const at = place(row.number);
        found.splice(at, Number(found[at] === row), ...[row].filter(matches));
      }
      look();
    },
    prepended(rows) {
      found = rows.filter(matches).concat(found);
      look();
    },
    trimmed() {
      const [first] = rowBounds();
      found.splice(0, place(first));
      tested = Math.max(tested, first);
      if (current?.number < first) current = null;
      if (text && !isSearching) rest();
      show();
    },
  });

  // Where in `found` a row of this number is or would be.
  const place = (number) => firstFrom(found, (row) => row.number < number);

  function look() {
    if (isLooking) return;
    isLooking = true;
    setTimeout(() => {
      isLooking = false;
      if (!text) return;
      const until = performance.now() + SLICE_MS, [, end] = rowBounds();
      while (tested < end && performance.now() < until) found.push(...[rowAt(tested++)].filter(matches));
      if (isStale) markHits(seeker, current);
      isStale = false;
      show();
      if (tested < end) look();
    });
  }

  function retest() {
    found = [];
    [tested] = rowBounds();
    markHits(seeker, current);
    look();
  }

  // The id of the first line that is loaded.
  const firstId = () => rowOfRecord(0)?.id ?? Infinity;

  const needsServer = () => where().run !== null && (isRegex || !isWhole());

  // Searches from where the search of before ended.
  async function proceed() {
    abort = new AbortController();
    const { signal } = abort, { run, stream } = where();
    const what = { [isRegex ? 'regex' : 'text']: text, case: Number(matchesCase), ...(stream && { stream }), limit: LIST_LINES };
    isSearching = true;
    for (let isAll = false; !isAll;) {
      show();
      const params = new URLSearchParams({ ...what, since: searchedTo });
      const { ok, status, body } = await ask(`api/runs/${run}/log/search?${params}`, signal, ANSWER_MS).catch(() => ({}));
      if (signal.aborted) return;
      isPart = !ok;
      if (ok) {
        const lists = listedTo === searchedTo && listed.length < LISTED_MAX;
        // What was only counted is asked for again, as long as there is room in the list.
        const [to, count] = lists && body.matches.length < body.count ? [body.matches.at(-1).id, body.matches.length] : [body.next, body.count];
        isAll = to <= searchedTo || body.searched_all && to === body.next;
        searchedTo = Math.max(searchedTo, to);
        total += count;
        if (lists) {
          listed.push(...body.matches);
          listedTo = searchedTo;
          if (isRegex && count) retest();
        }
        if (wanted && (found.length || listed.length)) go(wanted);
      } else if (status === 400 || status === 404) {
        problem = body.detail;
        isAll = true;
      } else {
        await new Promise((resolve) => setTimeout(resolve, SEARCH_RETRY_MS));
        if (signal.aborted) return;
      }
    }
    isSearching = false;
    show();
  }

  function rest() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      isResting = true;
      // Later, only what came and went unseen is missing.
      if (text && needsServer() && !isSearching && (!searchedTo || firstId() > searchedTo)) proceed();
      show();
    }, REST_MS);
  }

  const isAsking = () => isSearching || !isResting && needsServer();
  const isMore = () => tested < rowBounds()[1] || isAsking();
  function counted() {
    // The rows in `found` that the server has not counted.
    const behind = found.length - firstFrom(found, (row) => row.id <= searchedTo), count = total + behind;
    let at = null;
    if (current?.id <= listedTo) at = firstFrom(listed, ({ id }) => id < current.id) + 1;
    // Which one it is is not known where lines are left out.
    else if (current && (current.id > searchedTo || where().upTo === Infinity)) at = count - found.length + place(current.number) + 1;
    const words = at ? FIND.place(at, Math.max(at, count), isMore()) : FIND.count(count, isMore());
    // "0 lines" must not sound as if it were of the whole log.
    return isPart || !searchedTo && where().run === null && !isWhole() ? FIND.loadedOnly(words) : words;
  }

  function show() {
    const words = !text || problem ? '' : counted();
    setText($('found'), words);
    for (const button of [$('find-previous'), $('find-next')]) {
      button.hidden = !text;
      button.disabled = !found.length && !listed.length && !isSearching;
    }
    field.setAttribute('aria-invalid', !!problem);
    $('find-error').hidden = !problem;
    setText($('find-error'), visible(problem));
    if (!words || isTold || !isResting || isMore()) return;
    // The count changes with each line that comes, so a screen reader is told it once, and then of each match that is gone to.
    isTold = true;
    announce(words);
  }

  function search() {
    abort?.abort();
    text = field.value;
    [isRegex, matchesCase] = toggles.map((it) => isTrue(it, 'aria-pressed'));
    charsMax = isRegex ? longestFor(text) : Infinity;
    regex = text && charsMax ? compile() : null;
    [found, listed, current, problem] = [[], [], null, ''];
    texts.clear();
    listedTo = searchedTo = total = wanted = 0;
    isSearching = isPart = isResting = isTold = false;
    [tested] = rowBounds();
    markHits(text ? seeker : null, null);
    show();
    if (text) look();
    rest();
  }

  function compile() {
    const flags = matchesCase ? 'g' : 'gi', pattern = isRegex ? text : text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
    for (const unicode of ['u', '']) {
      try {
        return new RegExp(pattern, flags + unicode);
      } catch {
        // Another dialect than the server's; what it says counts.
      }
    }
    return null;
  }

  async function go(step) {
    if (!text || isGoing) return;
    isGoing = true;
    wanted = 0;
    let at = place(current ? current.number : firstInView());
    // The one that it was in may have been written over since.
    if (step < 0 || found[at] === current) at += step;
    const row = found[at] ?? await outside(step) ?? found.at(step > 0 ? 0 : -1);
    isGoing = false;
    if (row) {
      current = row;
      reveal(row);
      markHits(seeker, row);
      isTold = true;
      show();
      announce(FIND.at(counted(), row.text.slice(0, TOLD_CHARS)));
    } else if (isAsking()) wanted = step;
  }

  // The next match in a part of the log that is not loaded: its row, once it is; nothing where the next one is loaded.
  function outside(step) {
    const first = firstId(), { upTo } = where();
    const [before, behind] = [firstFrom(listed, ({ id }) => id < first), firstFrom(listed, ({ id }) => id <= upTo)];
    const match = step > 0 ? listed[behind] ?? (before ? listed[0] : null) : listed[before - 1] ?? (behind < listed.length ? listed.at(-1) : null);
    return match && goTo(match.id);
  }

  // Gives the search the room that it needs: on a phone, with the tools, its own lines.
  function open(isOpen) {
    $('run-bar').classList.toggle('finding', isOpen);
    opener.setAttribute('aria-expanded', isOpen);
  }

  function close() {
    field.value = '';
    typed();
    open(false);
    log.focus({ preventScroll: true });
  }

  function typed() {
    search();
    // Browsers limit how often a page may change its address.
    clearTimeout(keeping);
    keeping = setTimeout(() => adjust({ find: sought = text }), REST_MS);
  }

  for (const [id, words] of Object.entries(FIND.labels)) {
    $(id).setAttribute('aria-label', words);
    $(id).title = words;
  }
  field.placeholder = FIND.labels.find;
  streams.append(...Object.entries(FIND.streams).map(([value, words]) => new Option(words, value)));

  field.oninput = typed;
  field.addEventListener('keydown', ({ key, isComposing, shiftKey }) => {
    if (key === 'Enter' && !isComposing) go(shiftKey ? -1 : 1);
    if (key === 'Escape') close();
  });
  box.addEventListener('focusin', () => open(true));
  box.addEventListener('focusout', ({ relatedTarget }) => {
    // On a phone it stays until it is closed.
    if (!field.value && !box.contains(relatedTarget) && !opener.offsetParent) open(false);
  });
  opener.onclick = () => (isTrue(opener, 'aria-expanded') ? close() : KEYS['/']());
  for (const toggle of toggles) {
    toggle.onclick = () => {
      toggle.setAttribute('aria-pressed', !isTrue(toggle, 'aria-pressed'));
      search();
    };
  }
  streams.onchange = () => {
    $('pick').classList.toggle('chosen', !!streams.value);
    choose(streams.value);
    search();
  };
  KEYS.n = $('find-next').onclick = () => go(1);
  KEYS.N = $('find-previous').onclick = () => go(-1);
  KEYS['/'] = () => {
    open(true);
    field.select();
    field.focus();
  };
  // Searches for the text that the address names, in a run that may be another one.
  return (given, isNew) => {
    if (given === sought && !isNew) return;
    if (given) open(true);
    field.value = sought = given;
    search();
  };
}
