// The search in the log of the run that is shown. The lines that are loaded are searched by the page, a few milliseconds at a time, so that a
// hundred thousand lines do not keep it waiting, and new lines as they come. The others are searched by the server, which is also the judge of
// regular expressions: the page marks with its own only where that can't take long.
//
// `searchedTo` divides the log. Up to there the server's count is valid, behind it the page's own.

import { isTyping } from './feed.js';
import { attach, bounds, firstInView, isWhole, mark, reveal, rowAt } from './log.js';
import { FIND, visible } from './words.js';

const SLICE_MS = 8;
const REST_MS = 300;          // how long typing must rest before the server is asked
const LIST_LINES = 1000;      // matches that one answer lists at most
const LISTED_MAX = 10000;     // matches that can be gone to where they are not loaded; the count goes on
const ANSWER_MS = 10000;
const RETRY_MS = 1500;
const STEPS_MAX = 2e7;        // of the page's regular expression in one line
const TEXT_MAX = 2000;        // characters of a line that such an expression is used on
const SLOW_MS = 20;           // one that took longer in a line is not used any more
const TOLD_CHARS = 200;

const $ = (id) => document.getElementById(id);

// How long a line may be for this regular expression, so that JavaScript's backtracking takes no more than STEPS_MAX steps. A repeated group
// can take exponentially many, and is left to the server.
function longest(pattern) {
  const bare = pattern.replace(/\\[^]|\[(?:\\[^]|[^\]\\])*\]/g, 'x').replace(/\(\?/g, '(').replace(/([*+?}])\?/g, '$1');
  if (/\)[*+{]/.test(bare)) return 0;
  const loops = bare.match(/[*+?{]/g)?.length ?? 0;
  return Math.min(TEXT_MAX, STEPS_MAX ** (1 / (loops + 1)));
}

// `ask` is a request as app.js makes it, `goTo` loads the lines around one, `adjust` keeps the text in the address, `where` tells the run, the
// stream and up to which id lines are loaded, and `close` gives up the search's room.
export function makeFinder({ ask, goTo, adjust, where, close }) {
  const field = $('find');
  let text = '';        // what is looked for; empty: nothing
  let isRegex = false, matchesCase = false;
  let regex = null;     // the page's own expression; null: it has none that may be used
  let charsMax = 0;     // the longest line that it may be used on
  let found = [];       // the loaded rows that match, in order
  let current = null;   // the row that one is in
  let tested = 0;       // rows from this number on were not tested yet
  let isLooking = false;

  let timer, abort;
  let isResting = false;   // whether typing rests
  let isSearching = false; // whether the server searches
  let isPart = false;      // whether the server could not
  let problem = '';        // what is wrong with the regular expression
  let searchedTo = 0, total = 0;
  let listed = [], listedTo = 0; // the server's matches, {id, stream}, complete up to that place
  const texts = new Set(); // lines that the server found and the page can't test
  let isStale = false;     // whether some of them are not marked yet
  let isGoing = false, wanted = 0; // the step that waits for a match
  let isTold = false;

  const canTest = (line) => regex && line.length <= charsMax;

  // Stands for a regular expression in the log's `matchAll` and in `search`, and bounds what it may cost.
  const seeker = {
    [Symbol.search]: (line) => (canTest(line) ? timed(() => line.search(regex)) : texts.has(line) ? 0 : -1),
    [Symbol.matchAll](line) {
      if (canTest(line)) return timed(() => [...line.matchAll(regex)].filter(([hit]) => hit));
      return texts.has(line) ? [{ index: 0, 0: line }] : [];
    },
  };

  function timed(test) {
    const began = performance.now();
    const result = test();
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
      if (match?.id <= (row.last ?? row.id) && match.stream === row.stream) {
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
        if (found[at] === row) found.splice(at, 1);
        if (matches(row)) found.splice(at, 0, row);
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

  function lower(list, isBefore) {
    let [low, high] = [0, list.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isBefore(list[middle])) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  function look() {
    if (isLooking) return;
    isLooking = true;
    setTimeout(() => {
      isLooking = false;
      if (!text) return;
      const until = performance.now() + SLICE_MS;
      const [, end] = bounds();
      while (tested < end && performance.now() < until) {
        const row = rowAt(tested++);
        if (matches(row)) found.push(row);
      }
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

  function query(since, signal) {
    const { run, stream } = where();
    const what = { [isRegex ? 'regex' : 'text']: text, case: Number(matchesCase), ...(stream && { stream }) };
    const params = new URLSearchParams({ ...what, since, limit: LIST_LINES });
    return ask(`api/runs/${run}/log/search?${params}`, signal, ANSWER_MS);
  }

  function list({ matches: more, count, next }) {
    const fits = more.filter(({ id }) => id <= searchedTo).slice(0, LISTED_MAX - listed.length);
    listed = listed.concat(fits.map(({ id, stream }) => ({ id, stream })));
    listedTo = more.length < count && fits.length || listed.length === LISTED_MAX ? listed.at(-1).id : Math.min(next, searchedTo);
    if (isRegex && fits.length) retest();
  }

  // Searches from where the search of before ended.
  async function proceed() {
    abort = new AbortController();
    const { signal } = abort;
    isSearching = true;
    for (let isAll = false; !isAll;) {
      show();
      const { ok, status, body } = await query(searchedTo, signal).catch(() => ({ ok: false }));
      if (signal.aborted) return;
      isPart = !ok;
      if (ok) {
        const isListed = listedTo === searchedTo;
        isAll = body.searched_all || body.next <= searchedTo;
        searchedTo = Math.max(searchedTo, body.next);
        total += body.count;
        if (isListed) list(body);
        if (wanted && (found.length || listed.length)) go(wanted);
      } else if (status === 400 || status === 404) {
        problem = body.detail;
        isAll = true;
      } else {
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        if (signal.aborted) return;
      }
    }
    // Without an expression of its own the page can mark only what is listed.
    if (!regex) await fill(Infinity).catch(() => {});
    if (signal.aborted) return;
    isSearching = false;
    show();
  }

  // Lists the matches that earlier answers only counted, up to this id.
  async function fill(to) {
    const { signal } = abort ?? {};
    while (listedTo < Math.min(to, searchedTo) && listed.length < LISTED_MAX) {
      const since = listedTo;
      const { ok, body } = await query(since, signal);
      if (!ok || since !== listedTo) return;
      list(body);
      if (listedTo <= since) return;
    }
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

  // The rows in `found` behind this place.
  const behind = (id) => found.length - lower(found, (row) => row.id <= id);

  function counted() {
    const count = total + behind(searchedTo);
    const isMore = tested < bounds()[1] || isSearching || !isResting && needsServer();
    const at = current && indexOf(current);
    const words = at ? FIND.place(at, Math.max(at, count), isMore) : FIND.count(count, isMore);
    // "0 lines" must not sound as if it were of the whole log.
    return isPart || !searchedTo && where().run === null && !isWhole() ? FIND.loadedOnly(words) : words;
  }

  // Which of the matches this row is; null where that is not known.
  function indexOf(row) {
    if (!searchedTo || row.id > searchedTo) return total + place(row.number) - (found.length - behind(searchedTo)) + 1;
    if (row.id <= listedTo) return lower(listed, ({ id }) => id < row.id) + 1;
    return where().upTo === Infinity ? total + behind(searchedTo) - (found.length - place(row.number)) + 1 : null;
  }

  function show() {
    const words = !text || problem ? '' : counted();
    if ($('found').textContent !== words) $('found').textContent = words;
    for (const id of ['find-previous', 'find-next']) {
      $(id).hidden = !text;
      $(id).disabled = !found.length && !listed.length && !isSearching;
    }
    field.setAttribute('aria-invalid', !!problem);
    $('find-error').hidden = !problem;
    if ($('find-error').textContent !== visible(problem)) $('find-error').textContent = visible(problem);
    if (!text || problem || isTold || !isResting || isSearching || tested < bounds()[1]) return;
    isTold = true;
    tell(words);
  }

  // The count changes with each line that comes, so a screen reader is told it once, and then of each match that is gone to.
  function tell(words) {
    $('announce').textContent = words;
  }

  function search() {
    abort?.abort();
    text = field.value;
    [isRegex, matchesCase] = ['find-regex', 'find-case'].map((id) => $(id).getAttribute('aria-pressed') === 'true');
    regex = text ? compile() : null;
    charsMax = isRegex ? longest(text) : Infinity;
    if (!charsMax) regex = null;
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
    const flags = matchesCase ? 'g' : 'gi';
    if (!isRegex) return new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), `${flags}u`);
    for (const unicode of ['u', '']) {
      try {
        return new RegExp(text, flags + unicode);
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
    try {
      let at = place(current ? current.number : firstInView());
      // The one that it was in may have been written over since.
      if (step < 0 || found[at] === current) at += step;
      const row = found[at] ?? await outside(step) ?? found.at(step > 0 ? 0 : -1);
      if (row) enter(row);
      else if (isSearching || !isResting && needsServer()) wanted = step;
    } catch {
      // The request had no answer: the next key press tries again.
    } finally {
      isGoing = false;
    }
  }

  // The next match in a part of the log that is not loaded: its row, once it is; null where the next one is loaded.
  async function outside(step) {
    if (!listed.length) return null;
    const first = firstId();
    const { upTo } = where();
    let match;
    if (step > 0) {
      if (upTo < Infinity) {
        const next = () => listed[lower(listed, ({ id }) => id <= upTo)];
        match = next() ?? (await fill(Infinity), next());
      }
      if (!match && listed[0].id < first) [match] = listed;
    } else {
      await fill(first);
      match = listed[lower(listed, ({ id }) => id < first) - 1];
      if (!match && upTo < Infinity) {
        await fill(Infinity);
        if (listed.at(-1).id > upTo) match = listed.at(-1);
      }
    }
    return match ? goTo(match.id) : null;
  }

  function enter(row) {
    current = row;
    reveal(row);
    mark(seeker, row);
    show();
    isTold = true;
    tell(FIND.at(counted(), row.text.slice(0, TOLD_CHARS)));
  }

  let keeping;
  function typed() {
    search();
    // Browsers limit how often a page may change its address.
    clearTimeout(keeping);
    keeping = setTimeout(() => adjust(field.value), REST_MS);
  }

  field.addEventListener('input', typed);
  field.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') {
      field.value = '';
      typed();
      close();
      $('log').focus({ preventScroll: true });
    } else if (event.key === 'Enter' && !event.isComposing) go(event.shiftKey ? -1 : 1);
    else return;
    event.preventDefault();
  });
  $('find-next').addEventListener('click', () => go(1));
  $('find-previous').addEventListener('click', () => go(-1));
  document.addEventListener('keydown', (event) => {
    if (!text || isTyping(event) || !$('tab-log').hasAttribute('aria-current')) return;
    if (event.key === 'n') go(1);
    else if (event.key === 'N') go(-1);
  });
  // Typed while this was being loaded.
  if (field.value) typed();

  return {
    again: search,
    // Searches for the text that the address names.
    show(given) {
      if (field.value !== given) field.value = given;
      search();
    },
  };
}
