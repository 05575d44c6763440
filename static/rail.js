// The history beside the log: a strip of the last runs, and the runs by day, with what became of each and how long it took, to scale. Runs are
// read a page at a time, as one scrolls; their rows are kept, so that nothing moves under a pointer. Text gets in by textContent only.

import { set, tint, useIcon } from './head.js';
import { HUES, T, command, dayOf, localTime, row, since, stop, took, visible } from './words.js';

const PAGE = 50;
const STRIP = 30;
const ANSWER_MS = 10000;
const FIND_MS = 250;       // after the last key
const NEAR_PX = 400;       // the next page is read when the end is this near
const FAILED = 'failed,killed,not_started,lost';

const $ = (id) => document.getElementById(id);
const template = document.createElement('a');
template.className = 'r';
for (const [tag, name] of [['span', 'name'], ['span', 'took'], ['span', 'scale']]) template.append(Object.assign(document.createElement(tag), { className: name }));
const icon = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
icon.setAttribute('class', 'i');
icon.setAttribute('aria-hidden', 'true');
icon.append(document.createElementNS('http://www.w3.org/2000/svg', 'use'));
template.prepend(icon);
template.lastElementChild.append(document.createElement('i'));

// `ask` is a request as app.js makes it, and `address` makes the address of a run.
export function makeRail({ ask, address }) {
  let c = null;
  let recent = [];          // the latest runs, whatever is chosen
  let runs = [];            // those that are chosen, newest first
  let next = null;          // where the next page begins; null: there is none
  let filter = { failed: false, find: '' };
  let readFor = '';         // the state and the filter that the first page is of
  let isReading = false;
  let timer;
  const rows = new Map();   // by id: its row, in `element`, and what it shows

  function show(context) {
    c = context;
    read();
    draw();
  }

  const query = (before) => {
    const params = new URLSearchParams({ limit: PAGE });
    if (filter.failed) params.set('outcome', FAILED);
    if (filter.find) params.set('find', filter.find);
    if (before) params.set('before', before);
    return `api/runs?${params}`;
  };

  // Reads the first page again, if a run has begun or ended since, or something else is chosen. What was read beyond it stays.
  async function read() {
    const { pipeline: p } = c;
    const key = JSON.stringify([p.run_id, p.status, p.state, filter]);
    if (isReading || !c.connected || readFor === key) return;
    isReading = true;
    const chosen = JSON.stringify(filter);
    try {
      const { ok, body } = await ask(query(), null, ANSWER_MS);
      if (ok && chosen === JSON.stringify(filter)) {
        const isAnother = !readFor.endsWith(`${chosen}]`);
        readFor = key;
        const last = body.runs.at(-1)?.id ?? 0;
        const older = isAnother ? [] : runs.filter(({ id }) => id < last);
        if (!older.length) next = body.next_before;
        runs = [...body.runs, ...older];
        if (!filter.failed && !filter.find) recent = body.runs.slice(0, STRIP);
        if (body.counts) set($('failed-count'), body.counts.failed ? body.counts.failed.toLocaleString() : '');
      }
    } catch {
      // The state's loop finds out what is wrong, and shows this again.
    }
    isReading = false;
    draw();
    if (readFor !== JSON.stringify([c.pipeline.run_id, c.pipeline.status, c.pipeline.state, filter])) timer ??= setTimeout(() => { timer = undefined; read(); }, 1000);
  }

  async function readMore() {
    if (isReading || next === null || !c?.connected) return;
    isReading = true;
    const chosen = JSON.stringify(filter);
    try {
      const { ok, body } = await ask(query(next), null, ANSWER_MS);
      if (ok && chosen === JSON.stringify(filter)) {
        runs = [...runs, ...body.runs];
        next = body.next_before;
      }
    } catch {
      // As above.
    }
    isReading = false;
    draw();
    read();
  }

  // A run as the state has it, if it is the latest: that is newer than the history.
  const current = (run) => (run.id === c.pipeline.run_id
    ? { ...run, status: c.pipeline.status, outcome: c.pipeline.outcome, started_at: c.pipeline.started_at, stopped_at: c.pipeline.stopped_at } : run);

  const lasted = (run) => (run.outcome ? run.outcome.took_ms : run.started_at ? Math.max(0, c.now - Date.parse(run.started_at)) : null);

  function draw() {
    const shown = runs.map(current);
    const longest = Math.max(1, ...shown.map(lasted));
    const elements = [];
    let day = null;
    for (const run of shown) {
      const words = dayOf(Date.parse(run.created_at), c.now);
      if (words !== day) {
        const heading = document.createElement('h2');
        heading.textContent = day = words;
        elements.push(heading);
      }
      elements.push(drawRow(run, longest));
    }
    if (!shown.length && readFor) elements.push(note(T.noRuns));
    const list = $('runs');
    // Rows are moved only where their order changes, so that focus and place stay.
    const changed = elements.length !== list.children.length || elements.some((element, n) => list.children[n] !== element && !(element.tagName === 'H2' && list.children[n].tagName === 'H2' && list.children[n].textContent === element.textContent));
    if (changed) {
      const focused = list.contains(document.activeElement) ? document.activeElement : null;
      const top = list.scrollTop;
      list.replaceChildren(...elements);
      list.scrollTop = top;
      if (focused?.isConnected) focused.focus({ preventScroll: true });
    }
    for (const id of rows.keys()) if (!shown.some((run) => run.id === id)) rows.delete(id);
    drawStrip();
  }

  function note(text) {
    return Object.assign(document.createElement('p'), { className: 'note', textContent: text });
  }

  function drawRow(run, longest) {
    let element = rows.get(run.id);
    if (!element) rows.set(run.id, element = template.cloneNode(true));
    const { tone, word, note: why } = c.connected || run.id !== c.pipeline.run_id ? row(run) : { ...row(run), tone: run.outcome ? row(run).tone : 'disconnected' };
    const [svg, name, took_, scale] = element.children;
    element.href = address({ run: run.id, tab: c.route.tab === 'runs' ? 'log' : c.route.tab });
    if (run.id === c.id) element.setAttribute('aria-current', 'true');
    else element.removeAttribute('aria-current');
    useIcon(svg, tone);
    tint(element, tone);
    const file = visible(run.script.split('/').pop());
    const key = `${file}|${run.id}|${why}`;
    if (name.dataset.key !== key) {
      name.dataset.key = key;
      name.replaceChildren(file, small(String(run.id)), ...(why ? [small(why, 'why')] : []));
    }
    const ms = lasted(run);
    set(took_, ms === null ? '' : run.outcome ? took(ms) : since(ms));
    scale.firstElementChild.style.width = `${(100 * (ms ?? 0) / longest).toFixed(1)}%`;
    const words = `${word}${why ? `, ${why}` : ''}: ${command(run.script, run.args)}. ${localTime(Date.parse(run.created_at), c.now)}.${run.error ? ` ${stop(run.error)}` : ''}`;
    if (element.title !== visible(words)) {
      element.title = visible(words);
      svg.setAttribute('aria-label', word);
    }
    return element;
  }

  function small(text, className = '') {
    return Object.assign(document.createElement('small'), { textContent: visible(text), className });
  }

  // The strip: the height is the square root of the duration, so that short runs are seen beside long ones.
  function drawStrip() {
    const shown = recent.map(current).reverse();
    const strip = $('strip');
    strip.hidden = shown.length < 2;
    strip.setAttribute('aria-label', T.lastRuns(shown.length));
    const longest = Math.max(1, ...shown.map(lasted));
    while (strip.children.length > shown.length) strip.lastChild.remove();
    shown.forEach((run, n) => {
      const bar = strip.children[n] ?? strip.appendChild(document.createElement('a'));
      bar.tabIndex = -1;
      bar.href = address({ run: run.id });
      bar.className = HUES[row(run).tone];
      bar.style.height = `${Math.max(8, 100 * Math.sqrt((lasted(run) ?? 0) / longest)).toFixed(0)}%`;
      const words = `${T.runName(run.id)} · ${visible(run.script.split('/').pop())} · ${row(run).word}`;
      if (bar.title !== words) bar.title = words;
    });
  }

  function choose(changes) {
    filter = { ...filter, ...changes };
    $('all-runs').setAttribute('aria-pressed', !filter.failed);
    $('failed-runs').setAttribute('aria-pressed', filter.failed);
    runs = [];
    next = null;
    if (!c) return;
    read();
    $('runs').scrollTop = 0;
  }

  $('all-runs').addEventListener('click', () => choose({ failed: false }));
  $('failed-runs').addEventListener('click', () => choose({ failed: true }));
  $('filter').addEventListener('click', () => {
    const isOpen = $('run-finder').toggleAttribute('hidden') === false;
    $('filter').setAttribute('aria-expanded', isOpen);
    if (isOpen) $('find-runs').focus();
    else if ($('find-runs').value) {
      $('find-runs').value = '';
      choose({ find: '' });
    }
  });
  let typing;
  $('find-runs').addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(() => choose({ find: $('find-runs').value.trim() }), FIND_MS);
  });
  $('runs').addEventListener('scroll', () => {
    const { scrollTop, scrollHeight, clientHeight } = $('runs');
    if (scrollHeight - scrollTop - clientHeight < NEAR_PX) readMore();
  }, { passive: true });
  $('fold').addEventListener('click', () => document.body.classList.toggle(innerWidth > 1100 ? 'no-rail' : 'show-rail'));

  return { show, find: (id) => recent.find((run) => run.id === id) ?? null };
}
