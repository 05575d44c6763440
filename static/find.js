// The search in the log of the run that is shown, and which stream of it is shown. The lines that are loaded are searched by the page, a few
// milliseconds at a time, so that a hundred thousand lines do not keep it waiting, and new lines as they come. The others are searched by the
// server, which is also the judge of regular expressions: the page marks with its own only where that can't take long.
//
// `searchedTo` divides the log. Up to there the server's count is valid, behind it the page's own.

import { setText } from './ansi.js';
import { isTyping } from './feed.js';
import { attach, bounds, firstInView, isWhole, lower, mark, reveal, rowAt } from './log.js';
import { FIND, visible } from './words.js';

const SLICE_MS = 8;
// How long typing must rest before the server is asked.
const REST_MS = 300;
// Matches that can be gone to where they are not loaded, and how many one answer lists; the count goes on.
const LISTED_MAX = 10000;
const LIST_LINES = 1000;
const ANSWER_MS = 10000;
const RETRY_MS = 1500;
// Of the page's regular expression in one line, and characters of a line that such an expression is used on.
const STEPS_MAX = 2e7;
const TEXT_MAX = 2000;
// One that took longer in a line is not used any more.
const SLOW_MS = 20;
const TOLD_CHARS = 200;

const $ = (id) => document.getElementById(id);

// How long a line may be for this regular expression, so that JavaScript's backtracking takes no more than STEPS_MAX steps. A repeated group
// can take exponentially many, and is left to the server.
function longest(pattern) {
  const bare = pattern.replace(/\\[^]|\[(?:\\[^]|[^\]\\])*\]/g, 'x').replace(/\(\?/g, '(').replace(/([*+?}])\?/g, '$1');
  return /\)[*+{]/.test(bare) ? 0 : Math.min(TEXT_MAX, STEPS_MAX ** (1 / bare.split(/[*+?{]/).length));
}

// `ask` is a request as app.js makes it, `goTo` loads the lines around one, `choose` shows the lines of one stream, `adjust` keeps the text in
// the address, and `where` tells the run, the stream and up to which id lines are loaded.
export function makeFinder({ ask, goTo, choose, adjust, where }) {
  const [box, field, opener] = [$('finder'), $('find'), $('find-open')], toggles = [$('find-regex'), $('find-case')];
  // What is looked for; empty: nothing.
  let text = '', isRegex = false, matchesCase = false;
  // The page's own expression, and the longest line that it may be used on; null: it has none that may be used.
  let regex = null, charsMax = 0;
  // The loaded rows that match, in order; which one is the current; and from which number on rows were not tested yet.
  let found = [], current = null, tested = 0, isLooking = false;
  let timer, abort, keeping;
  // The text that the address names.
  let sought = '';
  // Whether typing rests, the server searches, or could not.
  let isResting = false, isSearching = false, isPart = false;
  // What is wrong with the regular expression.
  let problem = '';
  let searchedTo = 0, total = 0;
  // The server's matches, {id, stream}, complete up to that place.
  let listed = [], listedTo = 0;
  // Lines that the server found and the page can't test, and whether some of them are not marked yet.
  const texts = new Set();
  let isStale = false;
  // The step that waits for a match.
  let isGoing = false, wanted = 0, isTold = false;

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
      const match = listed[lower(listed, ({ id }) => id < row.id)];
      if (match?.id <= row.last && match.stream === row.stream) {
        texts.add(row.text);
        isStale = true;
      }
    }
    return row.text.search(seeker) >= 0;
  }

  // ---- What is loaded ------------------------------------------------------------------------------------------------

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
      if (!text) return;
      found = rows.filter(matches).concat(found);
      look();
    },
    trimmed() {
      const [first] = bounds();
      found.splice(0, place(first));
      tested = Math.max(tested, first);
      if (current?.number < first) current = null;
      if (text && !isSearching) rest();
      show();
    },
  });

  // Where in `found` a row of this number is or would be.
  const place = (number) => lower(found, (row) => row.number < number);

  function look() {
    if (isLooking) return;
    isLooking = true;
    setTimeout(() => {
      isLooking = false;
      if (!text) return;
      const until = performance.now() + SLICE_MS, [, end] = bounds();
      while (tested < end && performance.now() < until) found.push(...[rowAt(tested++)].filter(matches));
      if (isStale) mark(seeker, current);
      isStale = false;
      show();
      if (tested < end) look();
    });
  }

  function retest() {
    found = [];
    [tested] = bounds();
    mark(seeker, current);
    look();
  }

  // The id of the first line that is loaded.
  function firstId() {
    for (let [n, end] = bounds(); n < end; n++) if (rowAt(n).id) return rowAt(n).id;
    return Infinity;
  }

  // ---- The whole run -------------------------------------------------------------------------------------------------

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
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
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
      if (!text) return;
      // Later, only what came and went unseen is missing.
      if (needsServer() && !isSearching && (!searchedTo || firstId() > searchedTo)) proceed();
      show();
    }, REST_MS);
  }

  // ---- What is shown -------------------------------------------------------------------------------------------------

  const isAsking = () => isSearching || !isResting && needsServer();
  const isMore = () => tested < bounds()[1] || isAsking();

  function counted() {
    // The rows in `found` that the server has not counted.
    const behind = found.length - lower(found, (row) => row.id <= searchedTo), count = total + behind;
    let at = null;
    if (current?.id <= listedTo) at = lower(listed, ({ id }) => id < current.id) + 1;
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
    if (words && !isTold && isResting && !isMore()) tell(words);
  }

  // The count changes with each line that comes, so a screen reader is told it once, and then of each match that is gone to.
  function tell(words) {
    isTold = true;
    $('announce').textContent = words;
  }

  function search() {
    abort?.abort();
    text = field.value;
    [isRegex, matchesCase] = toggles.map((it) => it.getAttribute('aria-pressed') === 'true');
    charsMax = isRegex ? longest(text) : Infinity;
    regex = text && charsMax ? compile() : null;
    [found, listed, current, problem] = [[], [], null, ''];
    texts.clear();
    listedTo = searchedTo = total = wanted = 0;
    isSearching = isPart = isResting = isTold = false;
    [tested] = bounds();
    mark(text ? seeker : null, null);
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

  // ---- Going from match to match ---------------------------------------------------------------------------------------

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
      mark(seeker, row);
      show();
      tell(FIND.at(counted(), row.text.slice(0, TOLD_CHARS)));
    } else if (isAsking()) wanted = step;
  }

  // The next match in a part of the log that is not loaded: its row, once it is; nothing where the next one is loaded.
  function outside(step) {
    const first = firstId(), { upTo } = where();
    const [before, behind] = [lower(listed, ({ id }) => id < first), lower(listed, ({ id }) => id <= upTo)];
    const match = step > 0 ? listed[behind] ?? (before ? listed[0] : null) : listed[before - 1] ?? (behind < listed.length ? listed.at(-1) : null);
    return match && goTo(match.id);
  }

  // ---- The field -------------------------------------------------------------------------------------------------------

  // Gives the search the room that it needs: on a phone, with the tools, its own lines.
  function open(isOpen) {
    $('run-bar').classList.toggle('finding', isOpen);
    opener.setAttribute('aria-expanded', isOpen);
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
  $('stream').append(...Object.entries(FIND.streams).map(([value, words]) => new Option(words, value)));

  field.addEventListener('input', typed);
  field.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !event.isComposing) go(event.shiftKey ? -1 : 1);
    if (event.key !== 'Escape') return;
    event.preventDefault();
    field.value = '';
    typed();
    open(false);
    $('log').focus({ preventScroll: true });
  });
  box.addEventListener('focusin', () => open(true));
  box.addEventListener('focusout', ({ relatedTarget }) => {
    // On a phone it stays until it is closed.
    if (!field.value && !box.contains(relatedTarget) && !opener.offsetParent) open(false);
  });
  opener.addEventListener('click', () => {
    const isOpen = opener.getAttribute('aria-expanded') !== 'true';
    open(isOpen);
    if (isOpen) field.focus();
  });
  $('find-next').addEventListener('click', () => go(1));
  $('find-previous').addEventListener('click', () => go(-1));
  for (const toggle of toggles) {
    toggle.addEventListener('click', () => {
      toggle.setAttribute('aria-pressed', toggle.getAttribute('aria-pressed') !== 'true');
      search();
    });
  }
  $('stream').addEventListener('change', ({ target }) => {
    $('pick').classList.toggle('chosen', !!target.value);
    choose(target.value);
    search();
  });
  document.addEventListener('keydown', (event) => {
    if (isTyping(event) || $('pane-log').hidden) return;
    if (event.key === 'n') go(1);
    if (event.key === 'N') go(-1);
    if (event.key !== '/') return;
    event.preventDefault();
    field.select();
    field.focus();
  });
  // Typed while this was being loaded.
  if (field.value) typed();

  // Searches for the text that the address names, in a run that may be another one.
  return (given, isNew) => {
    if (given === sought && !isNew) return;
    if (given) open(true);
    field.value = sought = given;
    search();
  };
}
