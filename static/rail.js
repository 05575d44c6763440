// The history beside the log: a strip of the last runs, and the runs by day, each with its outcome and its duration to scale. Runs are loaded a
// page at a time during scrolling. Their rows are kept, so that nothing moves under the pointer. Text is inserted by textContent only.

import { $, each, el, icon, set, tint, useIcon } from './dom.js';
import { button, get } from './parts.js';
import { command, dayOf, ending, HUES, localTime, look, row, shellWords, since, stop, T, took, visible } from './words.js';

const PAGE = 50;
const STRIP = 30;
export const FIND_MS = 250; // after the last key
const AGAIN_MS = 1000;
const NEAR_PX = 400;       // the next page is loaded when the end is this near
// Every kind of failure; and the outcomes that can be chosen one by one.
const FAILED = 'failed,killed,not_started,lost';
const OUTCOMES = ['completed', 'stopped', 'killed', 'not_started', 'lost'];

// `ask` sends a request (see app.js), and `address` returns the address of a run.
export function makeRail({ ask, address }) {
  let c = null;
  let recent = [];          // the latest runs, whatever filter is set
  let runs = [];            // the runs that match the filter, newest first
  let next = null;          // where the next page begins; null: there is none
  let filter = { outcome: '', find: '' };
  let readFor = '';         // the state and the filter that the first page was loaded for
  let isReading = false;
  let timer;
  const kept = new Map();   // elements: of runs by their ids, of days by their names
  const none = el('p', 'note', T.noRuns);

  function show(context) {
    c = context;
    if (readFor !== keyNow()) load();
    draw();
  }

  const longestOf = (shown) => Math.max(1, ...shown.map(lasted));

  // Returns the state and the filter for the first page. It is loaded again after a run has begun or ended, or the filter has changed.
  const keyNow = () => JSON.stringify([c.pipeline.run_id, c.pipeline.status, c.pipeline.state, filter]);

  const query = (before) => new URLSearchParams({
    limit: PAGE, ...(filter.outcome && { outcome: filter.outcome }), ...(filter.find && { find: filter.find }), ...(before && { before }),
  });

  // Loads the first page, or the page that begins at `before`. Runs that were loaded after the first page stay. One response covers a part of the
  // history; loading continues until there is something to scroll to.
  async function load(before = null) {
    if (isReading || !c?.connected) return;
    isReading = true;
    const key = keyNow(), chosen = filter;
    const { runs: page, next_before: end, counts, searched_all: all } = await get(ask, `api/runs?${query(before)}`);
    isReading = false;
    // If there is no answer, the state's loop finds the cause and then shows this part again.
    if (page && chosen === filter) {
      const older = before ? [] : runs.filter(({ id }) => id < end);
      if (!before) readFor = key;
      if (!older.length) next = end;
      runs = [...before ? runs : [], ...page, ...older];
      if (!before && !filter.outcome && !filter.find) recent = page.slice(0, STRIP);
      else if (recent[0]?.id !== c.pipeline.run_id) recent = (await get(ask, `api/runs?limit=${STRIP}`)).runs ?? recent;
      if (counts) set($('failed-count'), counts.failed ? counts.failed.toLocaleString() : '');
    }
    draw();
    if (page && chosen === filter && all === false && next && (!page.length || runs.length < PAGE)) load(next);
    if (readFor !== keyNow()) timer ??= setTimeout(() => { timer = undefined; load(); }, AGAIN_MS);
  }

  // Returns the run with the values of the state if it is the latest run, because they are newer than the history.
  const current = (run) => (run.id === c.pipeline.run_id
    ? { ...run, status: c.pipeline.status, outcome: c.pipeline.outcome, started_at: c.pipeline.started_at, stopped_at: c.pipeline.stopped_at } : run);

  // Returns what a row shows: how the run ended, or for the live run the page's words for the state.
  const signs = (run) => (run.outcome || run.id !== c.pipeline.run_id ? row(run)
    : { ...row(run), ...look(c.pipeline, c.now, c.connected ? null : c.heard) });

  // Advances the duration of the live run.
  function tick(context) {
    c = context;
    const run = runs.find(({ id }) => id === c.pipeline.run_id);
    if (run && c.connected && c.pipeline.state !== 'stopped') drawRow(current(run), longestOf(runs.map(current)));
  }

  const lasted = (run) => (run.outcome ? run.outcome.took_ms
    : run.started_at && signs(run).tone !== 'doubt' ? Math.max(0, c.now - Date.parse(run.started_at)) : null);

  function draw() {
    const shown = runs.map(current), longest = longestOf(shown), elements = [];
    let day;
    for (const run of shown) {
      const words = dayOf(Date.parse(run.created_at), c.now);
      if (words !== day) elements.push(dayHeading(day = words));
      elements.push(drawRow(run, longest));
    }
    if (!shown.length && readFor && next === null) elements.push(none);
    const list = $('runs'), { scrollTop: top } = list;
    // Rows are moved only if their order changes, so that the focus and the scroll position stay.
    if (elements.length !== list.children.length || elements.some((element, n) => list.children[n] !== element)) {
      const focused = list.contains(document.activeElement) && document.activeElement;
      list.replaceChildren(...elements);
      list.scrollTop = top;
      if (focused.isConnected) focused.focus({ preventScroll: true });
    }
    for (const [key, element] of kept) if (!element.isConnected) kept.delete(key);
    drawStrip();
  }

  // Returns the element for this key, which is made once.
  function keepElement(key, make) {
    if (!kept.has(key)) kept.set(key, make());
    return kept.get(key);
  }

  const dayHeading = (words) => keepElement(words, () => el('h2', '', words));

  function drawRow(run, longest) {
    const element = keepElement(run.id, () => el('a', 'r', icon('idle'), el('span', 'name'), el('span', 'took'), el('span', 'args'),
      el('span', 'scale', el('i'))));
    const { tone, word, note: why } = signs(run);
    const [svg, name, took_, args, scale] = element.children;
    element.href = address({ run: run.id, tab: c.route.tab === 'runs' ? 'log' : c.route.tab });
    element.ariaCurrent = run.id === c.id ? 'true' : null;
    useIcon(svg, tone, word);
    tint(element, tone);
    const file = visible(run.script.split('/').pop());
    const key = `${file}|${run.id}|${why}`;
    if (name.dataset.key !== key) {
      name.dataset.key = key;
      name.replaceChildren(`${file} `, el('small', '', `${run.id} `), why && el('small', 'why', why));
    }
    set(args, shellWords(run.args));
    const ms = lasted(run);
    set(took_, ms === null ? '' : run.outcome ? took(ms) : since(ms));
    scale.firstElementChild.style.width = `${(100 * (ms ?? 0) / longest).toFixed(1)}%`;
    const what = `${why ? `${word}, ${why}` : word}: ${command(run.script, run.args)}. ${localTime(Date.parse(run.created_at), c.now)}.`;
    element.title = visible(run.error ? `${what} ${stop(run.error)}` : what);
    return element;
  }

  // Draws the strip. A bar's height is the square root of the duration, so that short runs are visible beside long ones.
  function drawStrip() {
    const shown = recent.map(current).reverse();
    const strip = $('strip');
    strip.hidden = shown.length < 2;
    strip.ariaLabel = T.lastRuns(shown.length);
    const longest = longestOf(shown);
    each(strip, shown, () => el('a', { tabIndex: -1 }), (bar, run) => {
      bar.href = address({ run: run.id });
      const { tone, word } = signs(run);
      bar.className = HUES[tone];
      bar.style.height = `${Math.max(8, 100 * Math.sqrt((lasted(run) ?? 0) / longest)).toFixed(0)}%`;
      bar.title = visible(`${T.runName(run.id)} · ${run.script.split('/').pop()} · ${word}`);
    });
  }

  function choose(changes) {
    filter = { ...filter, ...changes };
    for (const [outcome, it] of choices) it.ariaPressed = outcome === filter.outcome;
    runs = [];
    next = null;
    load();
    $('runs').scrollTop = 0;
  }

  const choices = new Map([['', $('all-runs')], [FAILED, $('failed-runs')]]);
  for (const kind of OUTCOMES) {
    choices.set(kind, button('', ending({ kind }).word));
    $('outcomes').append(choices.get(kind));
  }
  for (const [outcome, it] of choices) {
    it.onclick = () => choose({ outcome });
    it.ariaPressed = !outcome;
  }
  $('filter').onclick = () => {
    const isOpen = $('run-finder').toggleAttribute('hidden') === false;
    $('filter').ariaExpanded = isOpen;
    if (isOpen) $('find-runs').focus();
    else if ($('find-runs').value || OUTCOMES.includes(filter.outcome)) {
      // A filter that is no longer visible must not apply.
      $('find-runs').value = '';
      choose({ find: '', outcome: OUTCOMES.includes(filter.outcome) ? '' : filter.outcome });
    }
  };
  let typing;
  $('find-runs').oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(() => choose({ find: $('find-runs').value.trim() }), FIND_MS);
  };
  $('runs').onscroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = $('runs');
    if (next && scrollHeight - scrollTop - clientHeight < NEAR_PX) load(next);
  };
  $('fold').onclick = () => document.body.classList.toggle(innerWidth > 1100 ? 'no-rail' : 'show-rail');

  return { show, tick, find: (id) => recent.find((run) => run.id === id) ?? null };
}
