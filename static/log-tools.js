// Tools for reading the log: the buttons at the end of its bar, keys, links to lines, copying, and the search in the run that is shown. The page
// searches the loaded lines, and new ones as they come, a few milliseconds at a time, so that a hundred thousand lines do not block it. The server
// searches the others. It also decides what a regular expression matches: the page uses its own expression for marks, and only where that can't
// take long.
//
// `searchedTo` divides the log. Up to that position the server's count is valid, after it the page's own count.

import { $, el, setText } from './dom.js';
import { isTyping } from './feed.js';
import { attach, endNumber, errorRows, firstFrom, firstNumber, linesIn, rowAt, rowOfRecord } from './log-rows.js';
import {
  chosenRow, firstInView, goToEnd, goToTop, isFollowingEnd, isWhole, log, markHits, remeasure, reveal, rowOf, shownRun, stayHere,
} from './log.js';
import { copy, iconButton, isEnter } from './parts.js';
import { ANSWER_MS, inStorage, linkProof } from './session.js';
import { FIND, LOG, visible } from './words.js';

// How much of a line is passed to a screen reader.
const TOLD_CHARS = 200;
// How long the page searches without a pause, and how long typing must rest before the server is asked.
const SLICE_MS = 8, REST_MS = 300;
// How many matches in lines that are not loaded can be jumped to, and how many one response lists. The count continues beyond that.
const LISTED_MAX = 10000, LIST_LINES = 1000;
const SEARCH_RETRY_MS = 1500;
// The most steps of the page's regular expression in one line, and the longest line that it is used on.
const STEPS_MAX = 2e7, TEXT_MAX = 2000;
// An expression that took longer than this on a line is no longer used.
const SLOW_MS = 20;

// ---- The tools ---------------------------------------------------------------

const makeTool = (id, sign, onclick) => Object.assign(iconButton(sign, LOG.tools[id], onclick), { id });
const marksTool = el('button', { type: 'button', id: 'marks', title: LOG.nextError, onclick: () => goToMark(1) });
const followTool = makeTool('follow', 'follow', () => (isFollowingEnd ? stayHere() : goToEnd()));
// Makes a tool that adds the class `off` to the log or removes it. If the browser forbids storage, the choice lasts until the page is closed.
const makeSwitch = (id, sign, off) => {
  const toggle = (isOff) => {
    tool.ariaPressed = !log.classList.toggle(off, isOff);
    remeasure();
  };
  const tool = makeTool(id, sign, () => {
    toggle();
    inStorage(() => localStorage.setItem(id, tool.ariaPressed));
  });
  toggle(inStorage(() => localStorage.getItem(id)) === 'false');
  return tool;
};
const timesTool = makeSwitch('times', 'waiting', 'untimed'), wrapTool = makeSwitch('wrap', 'wrap', 'nowrap');
timesTool.classList.add('desk');
const fullTool = makeTool('full', 'full', () => fillWindow(fullTool.ariaPressed !== 'true'));
const getTool = makeTool('get', 'get');
const QUERIES = {
  download: '', 'download-plain': '&timestamps=0',
  'download-stdout': '&timestamps=0&stream=stdout', 'download-stderr': '&timestamps=0&stream=stderr',
};
const downloads = el('div', { id: 'downloads', popover: 'auto', onclick: () => downloads.hidePopover(), onbeforetoggle: showLinks },
  Object.keys(QUERIES).map((id, n) => el('a', { id, download: '' }, LOG.downloads[n])));
getTool.popoverTargetElement = downloads;
$('log-tools').append(el('div', { id: 'log-actions' }, marksTool, el('hr'), followTool, timesTool, wrapTool, fullTool, getTool, downloads));

function showLinks() {
  const { bottom, left } = getTool.getBoundingClientRect();
  Object.assign(downloads.style, { top: `${bottom + 4}px`, left: `${Math.min(left, innerWidth - 212)}px` });
  for (const link of downloads.children) link.href = `api/runs/${shownRun}/log?download=1${QUERIES[link.id]}${linkProof()}`;
}

function fillWindow(isFull) {
  document.body.classList.toggle('log-full', isFull);
  fullTool.ariaPressed = isFull;
  if (isFull) log.focus({ preventScroll: true });
}

function goToMark(step) {
  if (!errorRows.length) return;
  // Starts from the row that was jumped to last, if it is visible, otherwise from the first row in view.
  const box = chosenRow?.element?.getBoundingClientRect(), { top, bottom } = log.getBoundingClientRect();
  const from = box?.bottom > top && box.top < bottom ? chosenRow.number : firstInView() - (step > 0);
  const at = firstFrom(errorRows, ({ number }) => number < from + (step > 0)) - (step < 0), row = errorRows[at] ?? errorRows.at(step > 0 ? 0 : -1);
  reveal(row);
  announce(`${errorRows.indexOf(row) + 1} / ${LOG.marks(errorRows.length)}`, row);
}

// Passes words to screen readers, with the first characters of the row, if any.
function announce(words, row) {
  $('announce').textContent = row ? FIND.at(words, row.text.slice(0, TOLD_CHARS)) : words;
}

// ---- Links to lines ----------------------------------------------------------

const copyLink = el('button', { type: 'button', id: 'copy-link', hidden: true,
  onclick: () => copy(new URL(`#/runs/${pointed.run}?line=${pointed.id}`, location).href, copyLink) }, LOG.copyLink);
// Placed before the log, so that the headings in the log, which scroll it when they get the focus, do not come between it and the row.
log.before(copyLink);
let hovered = null, selected = null, pointed = null;

function pointAt() {
  const row = hovered ?? selected;
  pointed?.element?.classList.remove('at');
  pointed = row?.element?.isConnected ? row : null;
  pointed?.element.classList.add('at');
  const box = pointed?.element.getBoundingClientRect(), { top: edge, height } = log.getBoundingClientRect();
  // A row that is higher than the view has its button at the first line that is in view.
  const top = box && Math.max(box.top, Math.min(edge, box.bottom - 18)) - edge;
  copyLink.hidden = !(top >= -4 && top <= height - 12);
  copyLink.style.top = `${top}px`;
}

function hoverRow(row, isChosen) {
  hovered = row?.isHead ? null : row;
  if (isChosen) [selected, hovered] = [row, null];
  pointAt();
}

log.onpointerover = ({ target, pointerType }) => pointerType !== 'touch' && hoverRow(rowOf(target));
$('log-box').onpointerleave = () => hoverRow(null);
log.addEventListener('focusin', ({ target }) => target.closest('.row a') && hoverRow(rowOf(target), true));
log.addEventListener('click', ({ pointerType, target }) => {
  if (pointerType !== 'touch' || target.closest('a, button') || !getSelection().isCollapsed) return;
  const row = rowOf(target);
  hoverRow(row === selected ? null : row, true);
});

document.addEventListener('copy', (event) => {
  const selection = getSelection();
  // A button that copies selects text in a field, which is copied as usual.
  if (selection.isCollapsed || isTyping(event)) return;
  const range = selection.getRangeAt(0);
  if (!log.contains(range.commonAncestorContainer)) return;
  event.clipboardData.setData('text/plain', linesIn(range).join('\n'));
  event.preventDefault();
});

// ---- Keys --------------------------------------------------------------------

const KEYS = {
  g: goToTop, G: goToEnd, f: () => followTool.click(), t: () => timesTool.click(), w: () => wrapTool.click(), e: () => goToMark(1),
  E: () => goToMark(-1), Escape: () => fillWindow(false),
};

addEventListener('keydown', (event) => {
  const press = KEYS[event.key];
  if (isTyping(event) || $('pane-log').hidden || !press) return;
  if (event.key !== 'Escape') event.preventDefault();
  press();
});

let linksOf, led = null;

// Called with each frame.
function showTools() {
  if (linksOf !== shownRun) {
    linksOf = shownRun;
    hovered = selected = null;
    showLinks();
  }
  getTool.hidden = linksOf === null;
  followTool.ariaPressed = isFollowingEnd;
  marksTool.hidden = !errorRows.length;
  setText(marksTool, LOG.marks(errorRows.length));
  // The row that was jumped to gets the link button too, for use with the keyboard.
  if (chosenRow !== led) selected = led = chosenRow;
  pointAt();
}

attach({ drawn: showTools });
showTools();

// ---- The search --------------------------------------------------------------

// Returns how long a line may be for this regular expression, so that JavaScript's backtracking takes at most STEPS_MAX steps. A repeated group
// can take exponentially many steps, so it is left to the server.
function longestFor(pattern) {
  const bare = pattern.replace(/\\[^]|\[(?:\\[^]|[^\]\\])*\]/g, 'x').replace(/\(\?/g, '(').replace(/([*+?}])\?/g, '$1');
  return /\)[*+{]/.test(bare) ? 0 : Math.min(TEXT_MAX, STEPS_MAX ** (1 / bare.split(/[*+?{]/).length));
}

// `ask` sends a request (see app.js), `goTo` loads the lines around a line, `choose` shows the lines of one output stream, `adjust` stores the text
// in the address, and `where` returns the run, the output stream and the id up to which lines are loaded.
export function makeFinder({ ask, goTo, choose, adjust, where }) {
  const [box, field, opener, streams, ...toggles] = ['finder', 'find', 'find-open', 'stream', 'find-regex', 'find-case'].map($);
  // The text of the search, the text that the address names, and the error in the regular expression.
  let text = '', sought = '', problem = '', isRegex = false, matchesCase = false;
  // The page's own expression, or null if it must not be used; and the longest line that it may be used on.
  let regex = null, charsMax = 0;
  // The loaded rows that match, in order; the current one of them; and the number of the first row that has not been tested yet.
  let found = [], current = null, tested = 0, isLooking = false;
  // Whether typing rests, whether the server is searching, whether it has failed to, and whether the count was passed to screen readers.
  let timer, abort, keeping, isResting = false, isSearching = false, isPart = false, isTold = false;
  // The server's matches, which are complete up to `listedTo`.
  let listed = [], listedTo = 0, searchedTo = 0, total = 0;
  // The texts of lines that the server found and the page can't test; whether some of them are not marked yet; and the step that waits for a match.
  const texts = new Set();
  let isStale = false, isGoing = false, wanted = 0;
  const canTest = (line) => regex && line.length <= charsMax;
  // Takes the place of a regular expression in `matchAll` and `search`, and limits its cost.
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
      found = [...rows.filter(matches), ...found];
      look();
    },
    trimmed() {
      found.splice(0, place(firstNumber));
      tested = Math.max(tested, firstNumber);
      if (current?.number < firstNumber) current = null;
      if (text && !isSearching) rest();
      show();
    },
  });

  // Returns the index in `found` at which a row of this number is or would be.
  const place = (number) => firstFrom(found, (row) => row.number < number);

  function look() {
    if (isLooking) return;
    isLooking = true;
    setTimeout(() => {
      isLooking = false;
      if (!text) return;
      const until = performance.now() + SLICE_MS;
      while (tested < endNumber && performance.now() < until) found.push(...[rowAt(tested++)].filter(matches));
      if (isStale) markHits(seeker, current);
      isStale = false;
      show();
      if (tested < endNumber) look();
    });
  }

  function retest() {
    found = [];
    tested = firstNumber;
    markHits(seeker, current);
    look();
  }

  // Returns the id of the first loaded line.
  const firstId = () => rowOfRecord(0)?.id ?? Infinity;

  const needsServer = () => where().run !== null && (isRegex || !isWhole());

  // Continues the server's search from where it ended.
  async function proceed() {
    abort = new AbortController();
    const { signal } = abort, { run, stream } = where();
    isSearching = true;
    for (let isAll = false; !isAll;) {
      show();
      const params = new URLSearchParams({
        [isRegex ? 'regex' : 'text']: text, case: Number(matchesCase), ...(stream && { stream }), limit: LIST_LINES, since: searchedTo,
      });
      const { ok, status, body } = await ask(`api/runs/${run}/log/search?${params}`, signal, ANSWER_MS).catch(() => ({}));
      if (signal.aborted) return;
      isPart = !ok;
      if (ok) {
        const lists = listedTo === searchedTo && listed.length < LISTED_MAX;
        // Matches that were only counted are requested again, as long as the list has room.
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
      // After the first search, only lines that were removed before the server searched them are missing.
      if (text && needsServer() && !isSearching && (!searchedTo || firstId() > searchedTo)) proceed();
      show();
    }, REST_MS);
  }

  const isAsking = () => isSearching || !isResting && needsServer();
  const isMore = () => tested < endNumber || isAsking();
  function counted() {
    // The rows in `found` that the server has not counted.
    const behind = found.length - firstFrom(found, (row) => row.id <= searchedTo), count = total + behind;
    let at = null;
    if (current?.id <= listedTo) at = firstFrom(listed, ({ id }) => id < current.id) + 1;
    // The number of the current match is unknown if lines before it are left out.
    else if (current && (current.id > searchedTo || where().upTo === Infinity)) at = count - found.length + place(current.number) + 1;
    const words = at ? FIND.place(at, Math.max(at, count), isMore()) : FIND.count(count, isMore());
    // "0 lines" must not read like a count of the whole log.
    return isPart || !searchedTo && where().run === null && !isWhole() ? FIND.loadedOnly(words) : words;
  }

  function show() {
    const words = !text || problem ? '' : counted();
    setText($('found'), words);
    for (const button of [$('find-previous'), $('find-next')]) {
      button.hidden = !text;
      button.disabled = !found.length && !listed.length && !isSearching;
    }
    field.ariaInvalid = !!problem;
    $('find-error').hidden = !problem;
    setText($('find-error'), visible(problem));
    if (!words || isTold || !isResting || isMore()) return;
    // The count changes with each new line, so screen readers get it once, and after that each match that is jumped to.
    isTold = true;
    announce(words);
  }

  function search() {
    abort?.abort();
    text = field.value;
    [isRegex, matchesCase] = toggles.map(({ ariaPressed }) => ariaPressed === 'true');
    charsMax = isRegex ? longestFor(text) : Infinity;
    regex = text && charsMax ? compile() : null;
    [found, listed, current, problem, tested] = [[], [], null, '', firstNumber];
    texts.clear();
    listedTo = searchedTo = total = wanted = 0;
    isSearching = isPart = isResting = isTold = false;
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
        // The server uses another dialect, and its verdict counts.
      }
    }
    return null;
  }

  async function go(step) {
    if (!text || isGoing) return;
    isGoing = true;
    wanted = 0;
    let at = place(current ? current.number : firstInView());
    // The row of the current match may have been overwritten since.
    if (step < 0 || found[at] === current) at += step;
    const row = found[at] ?? await outside(step) ?? found.at(step > 0 ? 0 : -1);
    isGoing = false;
    if (row) {
      current = row;
      reveal(row);
      markHits(seeker, row);
      isTold = true;
      show();
      announce(counted(), row);
    } else if (isAsking()) wanted = step;
  }

  // Loads the next match in a part of the log that is not loaded, and returns its row. Returns nothing if there is no such match.
  function outside(step) {
    const first = firstId(), { upTo } = where(), older = listed.filter(({ id }) => id < first), later = listed.filter(({ id }) => id > upTo);
    const match = step > 0 ? later[0] ?? older[0] : older.at(-1) ?? later.at(-1);
    return match && goTo(match.id);
  }

  // Gives the search the space that it needs: on a phone its own lines, together with the tools.
  function open(isOpen) {
    $('run-bar').classList.toggle('finding', isOpen);
    opener.ariaExpanded = isOpen;
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

  for (const [id, words] of Object.entries(FIND.labels)) $(id).ariaLabel = $(id).title = words;
  field.placeholder = FIND.labels.find;
  streams.append(...Object.entries(FIND.streams).map(([value, words]) => new Option(words, value)));

  field.oninput = typed;
  field.onkeydown = (event) => {
    if (isEnter(event)) go(event.shiftKey ? -1 : 1);
    if (event.key === 'Escape') close();
  };
  box.addEventListener('focusin', () => open(true));
  box.addEventListener('focusout', ({ relatedTarget }) => {
    // On a phone the search stays open until it is closed.
    if (!field.value && !box.contains(relatedTarget) && !opener.offsetParent) open(false);
  });
  opener.onclick = () => (opener.ariaExpanded === 'true' ? close() : KEYS['/']());
  for (const toggle of toggles) {
    toggle.onclick = () => {
      toggle.ariaPressed = toggle.ariaPressed !== 'true';
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
  // Searches for the text that the address names, possibly in another run.
  return (given, isNew) => {
    if (given === sought && !isNew) return;
    if (given) open(true);
    field.value = sought = given;
    search();
  };
}
