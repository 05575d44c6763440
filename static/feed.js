// Where the lines of the run that is shown come from: its last ones, or those around a line, and others when they are asked for; then the event
// stream. A place in the log is a number that any server on the same database goes on from, so nothing is missing or shown twice,
// whatever was restarted in between. The stream also brings state, progress and usage, so it goes on behind a run that has ended. Where
// none is to be had (64 are open, or something in between holds it back), lines are polled. Not by EventSource: it tells neither why it was
// refused nor that it has gone silent, takes in a flood faster than it can be shown, and can't name its server.

import * as view from './log.js';
import { proof, toThisServer } from './session.js';
import { FIND, bytes } from './words.js';

const FIRST = 500;            // lines to begin with
const AROUND = 250;           // lines in front of one that is gone to
const PAGE_LINES = 1000;
const RECORD_BYTES = 29;      // what a line takes in the log beside its text
const BEHIND_MAX = 1 << 20;   // further behind than this many bytes it begins again with the last lines
const LAG_MAX = 16 << 20;     // the same within a stream
const LOOK_LINES = 20000;     // how often it is checked how far behind the stream is
const EARLIER_BYTES = 140000; // how far it goes back at once
const ANSWER_MS = 5000;
const RETRY_MS = 1000;
const REFUSED_MS = 5000;
const FIRST_WORD_MS = 5000;   // a stream begins with the state
const SILENCE_MS = 20000;     // and says something every 10 s
const POLL_MS = 1000;
const POLL_WAIT_S = 20;
const POLLING_MS = 60000;     // until the next try of a stream
const SHORT_MS = 2000;        // of a stream
const BUSY_MS = 12;           // as long as this the page may be kept from drawing

const $ = (id) => document.getElementById(id);

// `ask` is a request as app.js makes it, and `refresh` has the state asked for. `take` receives the state, `showSign` the data of a progress or
// usage event, and `hear` is called whenever the server says something. `adjust` changes the address, `restart` begins `follow` again.
export function makeFeed({ ask, refresh, adjust, isConnected, take, showSign, hear, restart }) {
  let run = null;       // the run whose lines are shown; null: none
  let stream = '';      // the stream whose lines are shown; empty: both
  let turn = 0;         // counts what is begun anew: answers for what was shown before are dropped
  let goal = null;      // the id of the line to begin around; null: begin with the last lines
  let next = null;      // the place behind the last line that came; null: nothing has come yet
  let end = null;       // where the run's log ends; null: more may come
  let begin = null;     // the first line's id
  let isAway = false;   // whether lines are left out between the last one that came and the log's end
  let line = null;      // the line that the address names
  let pollUntil = 0;    // by performance.now()
  let resting = false;  // whether lines wait until the reader is back at the end
  let asking = -1;      // the turn for which older or later lines are under way
  let isSettling = false;
  let streaming = false; // whether a stream brings the state, or is about to

  const isComplete = () => next !== null && end !== null && next >= end;
  const waits = () => next !== null && !isAway && !isComplete() && view.takesNone();

  function page(path, params, signal = null) {
    const given = new URLSearchParams({ run, ...(stream && { stream }), ...params });
    return ask(`api/logs${path}?${given}`, signal, ANSWER_MS + (params.wait ?? 0) * 1000);
  }

  // One round: until the stream ends, or one page. Resolves to the pause before the next in ms.
  async function follow(signal) {
    if (isAway && view.isFollowing()) {
      forget();
      if (line) adjust({ line: null });
      line = null;
    }
    resting = waits();
    if (!isConnected() || resting) return Infinity;
    streaming = performance.now() >= pollUntil;
    try {
      const pause = run === null || isAway ? null : next === null ? await load(signal) : await catchUp(signal);
      if (pause !== null) return pause;
      if (streaming) return await openStream(signal);
      // Nothing is to come but the state, which is asked for elsewhere until there is a stream again.
      if (run === null || isAway || isComplete()) return Math.max(0, pollUntil - performance.now());
      return await poll(signal);
    } catch {
      // The state's loop finds out what is wrong, and begins this one again when the server answers.
      if (signal.aborted) return 0;
      refresh();
      return RETRY_MS;
    } finally {
      if (streaming) {
        streaming = false;
        if (isConnected()) refresh();
      }
    }
  }

  // A log-in that has ended and another server are for the state's loop to find.
  function refuse({ status, body }) {
    if (status === 401 || status === 421) refresh();
    else if (status !== 404) tell(FIND.unreadable(body.detail || status));
    return REFUSED_MS;
  }

  // Shows the last lines, or those around the goal. Resolves to the pause before another try, or to null.
  async function load(signal) {
    const [mine, to] = [turn, goal];
    const answers = await Promise.all(to === null ? [page('/tail', { limit: FIRST }, signal)]
      : [page('/tail', { before: to, limit: AROUND }, signal), page('', { since: to, limit: FIRST }, signal)]);
    if (mine !== turn) return 0;
    const refused = answers.find(({ ok }) => !ok);
    if (refused) return refuse(refused);
    const [head, rest] = answers.map(({ body }) => body);
    forget();
    view.clear();
    const gone = rest?.gone ? [{ gone: rest.gone }] : [];
    const lines = rest ? [...head.lines, ...gone, ...rest.lines] : head.lines;
    end = (rest ?? head).end;
    next = rest && (rest.lines.length || rest.searched_all === false) ? rest.next : head.next;
    begin = lines.find(({ id }) => id)?.id ?? null;
    isAway = !!rest && !isLast(rest);
    $('log').dataset.read = '';
    tell(!lines.length && end !== null && head.gone ? FIND.logGone : '');
    view.append(lines);
    if (!head.lines.length ? head.searched_all !== false : startOf(head.lines[0]) <= head.first) atFirst(head.gone);
    if (line && to === line) view.showLine(to);
    else if (to !== null && rowOf(to)) view.reveal(rowOf(to));
    view.tellBack(isAway);
    return null;
  }

  // Whether this page of lines reaches the present end of the log.
  function isLast({ lines, end: last, searched_all: all }) {
    return !lines.length && all !== false || last !== null && next >= last;
  }

  async function catchUp(signal) {
    const mine = turn;
    const answer = await ask(`api/logs/tail?run=${run}&limit=1`, signal, ANSWER_MS);
    if (mine !== turn) return 0;
    if (!answer.ok) return refuse(answer);
    tell('');
    const behind = answer.body.next - next;
    if (behind < 0 || behind > BEHIND_MAX && view.isFollowing()) {
      // Another log, or too much to make up for: begin again.
      forget();
      return 0;
    }
    end = answer.body.end;
    return end === null || await complete(signal) ? null : REFUSED_MS;
  }

  // Brings what is missing up to the end of a run that is over. Behind it the stream may have much of other runs.
  async function complete(signal) {
    const mine = turn;
    while (!isComplete()) {
      const { ok, body } = await page('', { since: next, limit: PAGE_LINES }, signal);
      if (!ok || mine !== turn) return false;
      receive(body);
      // A run that goes on, or lines of the other stream at the end.
      if (body.end === null) return true;
      if (!body.lines.length && body.searched_all !== false) next = Math.max(next, end);
    }
    return true;
  }

  function receive({ lines, gone, next: place, end: last }) {
    add([...(gone ? [{ gone, to: next + 1 }] : []), ...lines]);
    next = Math.max(next, place);
    end = last;
  }

  function add(lines) {
    // A page and the stream may bring the same ones.
    const fresh = lines.filter(({ id, to }) => (id ?? to) > next);
    next = fresh.reduce((last, { id, to }) => Math.max(last, id ?? to), next);
    const shown = stream ? fresh.filter((it) => !it.stream || it.stream === stream) : fresh;
    begin ??= shown.find(({ id }) => id)?.id ?? null;
    view.append(shown);
  }

  async function poll(signal) {
    const mine = turn;
    const { ok, body } = await page('', { since: next, limit: PAGE_LINES, wait: POLL_WAIT_S }, signal);
    if (mine !== turn) return 0;
    if (!ok) return REFUSED_MS;
    receive(body);
    if (body.lines.length) refresh();
    return POLL_MS;
  }

  async function openStream(signal) {
    const abort = new AbortController();
    const stop = () => abort.abort();
    let timer, isSilent = false;
    const expect = (ms) => {
      clearTimeout(timer);
      timer = setTimeout(() => { isSilent = true; stop(); }, ms);
    };
    signal.addEventListener('abort', stop);
    if (signal.aborted) stop();
    try {
      expect(FIRST_WORD_MS);
      const since = next === null || isAway || isComplete() ? '' : `?since=${next}`;
      const response = await fetch(`api/events${since}`, { cache: 'no-store', headers: { ...toThisServer(), ...proof() }, signal: abort.signal });
      if (!response.ok) {
        // With too many streams, lines are polled.
        if (response.status !== 401 && response.status !== 421) pollUntil = performance.now() + POLLING_MS;
        return 0;
      }
      return await read(response.body.getReader(), () => expect(SILENCE_MS), abort.signal);
    } catch (error) {
      if (!isSilent) throw error;
      pollUntil = performance.now() + POLLING_MS;
      return 0;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', stop);
      stop();
    }
  }

  async function read(reader, expectMore, signal) {
    const decoder = new TextDecoder();
    const openedAt = performance.now();
    let rest = '', count = 0, drawnAt = openedAt;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        // Something that lets no stream live is not to be asked for one four times a second.
        if (performance.now() - openedAt < SHORT_MS) pollUntil = performance.now() + POLLING_MS;
        return RETRY_MS / 4;
      }
      expectMore();
      hear();
      const events = (rest + decoder.decode(value, { stream: true })).split('\n\n');
      rest = events.pop();
      const lines = [];
      for (const event of events) {
        const [, kind] = /^event: (.*)$/m.exec(event) ?? [];
        if (!['state', 'progress', 'usage', 'log', 'gap'].includes(kind)) continue;
        const data = JSON.parse(event.slice(event.indexOf('data: ') + 6));
        if (kind === 'state') take(data);
        else if (kind === 'progress' || kind === 'usage') showSign(kind, data);
        else if (isAway || next === null || isComplete()) continue;
        else if (kind === 'gap') lines.push({ gone: data.to - data.from, to: data.to });
        else if (data.run_id === run) lines.push(data);
        // Lines are in order: behind a later run's nothing comes of this one.
        else if (data.run_id > run) end ??= lines.reduce((last, { id, to }) => Math.max(last, id ?? to), next);
        // A state can lead to another run, which another stream goes on with.
        if (signal.aborted) return 0;
      }
      if (lines.length) add(lines);
      if (waits()) return 0;
      count += lines.length;
      if (count >= LOOK_LINES) {
        count = 0;
        const { ok, body } = await ask('api/logs/tail?source=pipeline&limit=1', signal, ANSWER_MS);
        if (ok && body.next - next > LAG_MAX && view.isFollowing() && !isComplete()) {
          forget();
          return 0;
        }
      }
      // What has come already is read at once, so that in a flood nothing would be drawn.
      if (performance.now() - drawnAt > BUSY_MS) {
        await new Promise((resolve) => setTimeout(resolve));
        drawnAt = performance.now();
      }
    }
  }

  // Brings the lines in front of the first.
  async function earlier() {
    if (asking === turn || begin === null) return;
    const mine = asking = turn;
    try {
      const before = begin, lines = [];
      let isFirst = false, first = 0, missing = 0;
      // In a hole there is nothing, so the steps grow.
      for (let span = EARLIER_BYTES; !lines.length && !isFirst; span *= 2) {
        const from = Math.max(0, before - span);
        for (let since = from; ;) {
          const { ok, body } = await page('', { since, limit: PAGE_LINES });
          if (!ok || mine !== turn) return;
          if (since === from) [first, missing] = [body.first, body.gone];
          const older = body.lines.filter(({ id }) => id < before);
          // How much is missing is known only where it was asked from in front of it.
          if (body.gone && body.next > first && (since > from || since > first)) lines.push({ gone: since > from ? body.gone : 0 });
          lines.push(...older);
          if (body.next <= since || body.next >= before || older.length < body.lines.length) break;
          since = body.next;
        }
        isFirst = from <= first;
      }
      begin = lines.find(({ id }) => id)?.id ?? before;
      view.prepend(lines);
      if (isFirst) atFirst(missing);
    } catch {
      refresh();
    } finally {
      if (asking === mine) asking = -1;
    }
  }

  // Brings the lines behind the last, if they are not those at the end.
  async function later() {
    if (asking === turn || !isAway) return;
    const mine = asking = turn;
    try {
      const { ok, body } = await page('', { since: next, limit: PAGE_LINES });
      if (!ok || mine !== turn) return;
      receive(body);
      isAway = !isLast(body);
      if (isAway) return;
      view.tellBack(false);
      if (end === null) restart();
    } catch {
      refresh();
    } finally {
      if (asking === mine) asking = -1;
    }
  }

  function atFirst(missing) {
    view.tellFront(missing ? FIND.beginsBehind(bytes(missing)) : FIND.begins, false);
  }

  function forget() {
    turn += 1;
    next = end = begin = goal = null;
    isAway = false;
  }

  // The row that holds the record of this id, or the first one behind it.
  function rowOf(id) {
    let behind = null;
    for (let [n, to] = view.bounds(); n < to; n++) {
      const row = view.rowAt(n);
      if (row.id === id || row.id < id && row.last >= id) return row;
      if (row.id > id) behind ??= row;
    }
    return behind;
  }

  // Sees to it that the line of this id is loaded, with those around it. Resolves to its row, or to null.
  async function goTo(id) {
    if (next !== null && id <= next && rowOf(0)?.id <= id) return rowOf(id);
    const mine = turn += 1;
    goal = id;
    if (next === null) {
      restart();
      return null;
    }
    try {
      // The stream goes on meanwhile, and behind it where the lines are not those at the end.
      if (await load(null) !== null) return null;
      if (!isAway && end === null) restart();
      return rowOf(id);
    } catch {
      refresh();
      return null;
    } finally {
      if (turn === mine) goal = null;
    }
  }

  // Shows the lines of one stream or of both, from where the reader is.
  function choose(value) {
    const [first, to] = [view.firstInView(), view.bounds()[1]];
    const place = !view.isFollowing() && first < to && view.rowAt(first).id || null;
    forget();
    [stream, goal] = [value, place];
    restart();
  }

  // Shows the run of this context, at the line that the address names.
  function show(c) {
    const isNew = c.id !== run;
    const to = c.route.line;
    if (isNew) {
      forget();
      [run, line, goal] = [c.id, to, to];
      view.clear();
      delete $('log').dataset.read;
      tell('');
      restart();
    } else if (to !== line) {
      line = to;
      if (to) goTo(to).then((row) => row && view.showLine(to));
    } else if (!isAway && next !== null && end === null && run !== null && !(c.isLatest && (c.pipeline.state !== 'stopped' || c.pipeline.pending))) {
      settle();
    }
    showFind(c.route.find, isNew);
  }

  // After the run's end: what is missing up to there.
  async function settle() {
    if (isSettling || !isConnected()) return;
    isSettling = true;
    try {
      if (await catchUp(null) === 0) restart();
    } catch {
      // The next state tries again.
    } finally {
      isSettling = false;
    }
  }

  // ---- The search: find.js is loaded when it is first needed ---------------------------------------------------------------

  const [box, field, opener] = [$('finder'), $('find'), $('find-open')];
  let finder = null;
  let sought = '';      // the text that the address names

  function withFinder(then) {
    finder ??= import('./find.js').then(({ makeFinder }) => makeFinder({
      ask, goTo, where: () => ({ run, stream, upTo: isAway ? next : Infinity }),
      adjust(find) {
        sought = find;
        adjust({ find });
      },
      close: () => open(false),
    }));
    finder.then(then, (error) => {
      // The next try loads it again.
      finder = null;
      console.error(error);
    });
  }

  // Gives the search the room that it needs: on a phone its own line.
  function open(isOpen) {
    $('run-bar').classList.toggle('finding', isOpen);
    opener.setAttribute('aria-expanded', isOpen);
  }

  function showFind(text, isNew) {
    if (text === sought && !(isNew && finder)) return;
    sought = text;
    if (text) open(true);
    withFinder((it) => it.show(text));
  }

  for (const [id, text] of Object.entries(FIND.labels)) {
    $(id).setAttribute('aria-label', text);
    $(id).title = text;
  }
  field.placeholder = FIND.labels.find;
  $('stream').append(...Object.entries(FIND.streams).map(([value, text]) => new Option(text, value)));

  box.addEventListener('focusin', () => {
    open(true);
    withFinder(() => {});
  });
  box.addEventListener('focusout', ({ relatedTarget }) => {
    // On a phone the line stays until it is closed.
    if (!field.value && !box.contains(relatedTarget) && !opener.offsetParent) open(false);
  });
  opener.addEventListener('click', () => {
    const isOpen = opener.getAttribute('aria-expanded') !== 'true';
    open(isOpen);
    if (isOpen) field.focus();
    else withFinder((it) => it.show(''));
  });
  for (const id of ['find-regex', 'find-case']) {
    $(id).addEventListener('click', ({ currentTarget: it }) => {
      it.setAttribute('aria-pressed', it.getAttribute('aria-pressed') !== 'true');
      withFinder((search) => search.again());
    });
  }
  $('stream').addEventListener('change', ({ target }) => {
    $('pick').classList.toggle('chosen', !!target.value);
    choose(target.value);
    finder?.then((it) => it.again());
  });
  document.addEventListener('keydown', (event) => {
    if (event.key !== '/' || isTyping(event) || !$('tab-log').hasAttribute('aria-current')) return;
    event.preventDefault();
    open(true);
    field.select();
    field.focus();
  });

  view.attach({ later });
  return { show, follow, earlier, goTo, isStreaming: () => streaming, isResting: () => resting || isAway };
}

// Whether a key is meant for a field, a dialog or the browser.
export function isTyping({ target, ctrlKey, metaKey, altKey }) {
  return ctrlKey || metaKey || altKey || !!target.closest?.('input, select, textarea, dialog, [contenteditable]');
}

// Where a line begins in the log, or a place behind that: bytes that were no text may be shown as longer characters.
function startOf({ id, line }) {
  return id - RECORD_BYTES - new TextEncoder().encode(line.replaceAll('\ufffd', ' ')).length;
}

// What is wrong with the log, above it.
function tell(text) {
  const note = $('log-note');
  if (note.textContent !== text) note.textContent = text;
  note.hidden = !text;
}
