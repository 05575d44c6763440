// The buttons: which ones exist, what each sends, and the sheets that ask before a run is ended. A button exists only while the API allows its
// action. After a click, and whenever the set of buttons changes, no button works for a moment, so that a double click does not press another
// button that appears in the same place.

import { $, set, useIcon } from './dom.js';
import { clearNotice, showError } from './head.js';
import { grace, toThisServer } from './session.js';
import { ANSWERED, BROKE, clock, didNotWork, look, shellWords, span, T, visible } from './words.js';

const ACTIONS = ['start', 'pause', 'resume', 'stop', 'longer', 'kill'];
const ACT_MS = 3700e3;       // time limit of an action's response: a stop may wait for the longest grace
const SETTLE_MS = 700;       // no button works for this long after a click or a change of buttons
const ASK_MS = 400;          // how long a confirmation is disabled, so that a double click does not confirm
const LONGER_S = 30;
const GRACES_S = [5, 10, 30, 60, 300, 900, 3600];
const APPEARED_MS = 1000;    // how long a page enables no button after it was loaded
const SHOWN_MS = 600;        // how long presses are ignored after the window got the focus or its tab was shown
const SAME_PRESS_MS = 50;    // a press on a button can focus the window itself, within this time before the press


// ---- Whether a press was intended. A page of another origin can cover this one, or navigate here, in the middle of a double click or while the
// user presses keys that it asked for, so that the rest lands on a button here. The server cannot tell such a press from an intended one.

let loadedAt = performance.now();
let shownAt = -Infinity;
let focusedAt = -Infinity;
let settleTimer;

// Returns whether the page is too new to enable its buttons.
const isNew = () => performance.now() - loadedAt < APPEARED_MS;

const isSettled = (at) => at - Math.max(shownAt, focusedAt) >= SHOWN_MS;

function ignorePresses() {
  document.body.setAttribute('data-settling', '');
  clearTimeout(settleTimer);
  settleTimer = setTimeout(() => document.body.removeAttribute('data-settling'), SHOWN_MS);
}

// Calls `changed` as soon as buttons can be enabled.
function watchForFocus(changed) {
  const enable = () => setTimeout(changed, APPEARED_MS + 20);
  enable();
  // This also applies when the browser restores the page from its back/forward cache.
  addEventListener('pageshow', ({ persisted, timeStamp }) => {
    if (!persisted) return;
    loadedAt = timeStamp;
    changed();
    enable();
  });
  addEventListener('focus', ({ timeStamp }) => { focusedAt = timeStamp; ignorePresses(); });
  document.addEventListener('visibilitychange', ({ timeStamp }) => {
    if (document.hidden) return;
    shownAt = timeStamp;
    ignorePresses();
  });
}

// Calls `then` for each click on a button that the user began while this page was visible. A double click counts once.
export function onMeantClick(button, then) {
  let isMeant = false;
  button.onpointerdown = ({ timeStamp }) => {
    isMeant = isSettled(timeStamp) || (timeStamp - shownAt >= SHOWN_MS && timeStamp - focusedAt < SAME_PRESS_MS);
  };
  button.onclick = ({ detail, timeStamp }) => {
    // Keys and screen readers make a click without a preceding press.
    if (detail === 0 ? isSettled(timeStamp) : isMeant && detail === 1) then();
    isMeant = false;
  };
  // A key that is held down is one press.
  button.onkeydown = (event) => !event.repeat;
}

// ---- The buttons -----------------------------------------------------------------------------------------------------

// `ask` sends a request (see app.js), `after(isInDoubt)` is called after each action, and `show` redraws the page.
export function makeControls({ ask, whoAnswers, show: redraw, after, startForm }) {
  let c = null;             // the context that is shown
  let question = null;      // the action and the run of the open sheet
  let answerable;           // the timer that enables the sheet's confirming buttons
  let clicked = -Infinity;  // when an action was last sent, by performance.now()
  let changed = -Infinity;  // when the set of buttons last changed
  let lastSet = '';
  let awaited = 0;          // after an action, buttons are disabled until the state has this version
  let hidden = null;        // the run that is being stopped and whose sheet the user has hidden
  const asked = new Set();  // the actions that were sent and have not been answered yet

  const scriptName = () => (c.pipeline.script ?? '').split('/').pop() || T.runName(c.pipeline.run_id);

  // Returns what the start button does: it repeats the run that is shown, or starts the configured script for the first time.
  function starts() {
    const { default_script } = c.pipeline;
    if (c.id !== null) {
      const args = shellWords(c.brief?.args ?? []);
      return { words: (c.isLatest ? T.runAgain : T.repeat(c.id)) + (args && `: ${args}`), icon: 'again', body: { again: c.id } };
    }
    return default_script ? { words: T.startThe(default_script), icon: 'play', body: { script: default_script } } : null;
  }

  function show(context) {
    c = context;
    const { pipeline: p } = c;
    const isStopping = p.pending === 'stop';
    const can = (action) => c.connected && !c.mayOnlyLook && p.allowed.includes(action);
    // Actions are possible only if the page shows the run that they act on.
    const may = (action) => c.isLatest && can(action) && !isStopping, stopsNow = c.isLatest && isStopping && can('stop');
    const exists = { start: can('start') && !!starts(), pause: may('pause'), resume: may('resume'), stop: may('stop'),
      longer: stopsNow && !!p.kill_at, kill: stopsNow };
    // A page that shows another run has other buttons.
    const now = [c.id, ...ACTIONS.filter((action) => exists[action])].join();
    if (now !== lastSet) {
      changed = performance.now();
      lastSet = now;
      setTimeout(redraw, SETTLE_MS + 20);
    }
    const begun = Math.max(clicked, changed);
    const ready = c.connected && c.mayAct && p.version >= awaited && !isNew() && performance.now() - begun >= SETTLE_MS;
    if (exists.start) {
      set($('start').lastElementChild, starts().words);
      $('start').title = visible(starts().words);
      useIcon($('start').firstElementChild, starts().icon);
    }
    for (const action of ACTIONS) {
      const button = $(action);
      const enabled = ready && exists[action] && !asked.has(action);
      const hadFocus = document.activeElement === button;
      button.hidden = !exists[action];
      button.disabled = !enabled;
      // The next Tab goes to the first enabled button, and a repeated Enter does nothing.
      if (hadFocus && (!enabled || button.hidden)) $('controls').focus({ preventScroll: true });
    }
    $('look').hidden = !c.mayOnlyLook;
    set($('look'), c.mayOnlyLook ? T.readOnly : '');
    // The action is no longer needed or no longer possible. The sheet stays open, so that no button appears under the pointer or finger.
    const isSame = p.run_id === question?.run;
    if ($('sure').open && (question.isOver || !isSame || !exists[question.action])) {
      set($('sure-text'), isSame && p.state !== 'stopped' ? T.isStopping : T.hasEnded);
      if (!question.isOver) {
        question.isOver = true;
        showAnswers(false);
        $('no').focus();
      }
    }
    showStopping(exists.kill);
    showStarter(can('start'), ready);
  }

  // Shows the rail's button: it starts the configured script, or opens the form.
  function showStarter(canStart, ready) {
    const { default_script: script } = c.pipeline;
    const named = canStart && !!script && c.pipeline.run_id !== null;
    set($('new-run').lastElementChild, named ? T.startThe(script) : T.newRun);
    $('new-run').title = named ? visible(script) : '';
    $('new-run').firstElementChild.toggleAttribute('hidden', !named);
    $('starter').hidden = c.mayOnlyLook || !c.connected;
    $('new-run').disabled = named && (!ready || asked.has('start'));
    $('choose').hidden = !named;
  }

  function showStopping(isStopping) {
    const { pipeline: p } = c;
    const sheet = $('stopping');
    sheet.hidden = !isStopping || hidden === p.run_id || $('sure').open;
    $('unhide').hidden = !isStopping || hidden !== p.run_id;
    if (!isStopping && p.pending !== 'stop') hidden = null;
    if (sheet.hidden) return;
    set(sheet.querySelector('h2'), T.stoppingTitle(scriptName()));
    set(sheet.querySelector('p'), p.kill_at ? T.sinceThen(clock(Date.parse(p.kill_at))) : T.sinceUnknown);
    tick(c);
  }

  // Shows how many seconds of a stop's grace are left.
  function tick(context) {
    c = context;
    if ($('stopping').hidden) return;
    const { left } = look(c.pipeline, c.now);
    set($('left'), left === null ? '…' : T.dial(left));
    const event = c.run?.events?.findLast(({ kind }) => kind === 'stopping');
    const grace = event?.grace_ms ?? 10000;
    $('stopping').querySelector('.left').style.strokeDasharray = `${left === null ? 0 : Math.min(100, left * 1e5 / grace)} 100`;
  }

  // Asks before an action ends a run. The confirming buttons work only after a moment, so that a double click does not confirm.
  function askWhether(action) {
    question = { action, run: c.pipeline.run_id };
    const isKill = action === 'kill';
    set($('sure-title'), isKill ? T.killTitle(scriptName()) : T.stopTitle(scriptName()));
    set($('yes'), isKill ? T.killNow : T.stop);
    $('sure').classList.toggle('kill', isKill);
    showAnswers(true);
    $('sure-choice').hidden = $('kill-now').hidden = isKill;
    if (!isKill) offerGraces();
    showGrace();
    $('yes').disabled = $('kill-now').disabled = true;
    $('stopping').hidden = true;
    $('sure').showModal();
    clearTimeout(answerable);
    answerable = setTimeout(() => { $('yes').disabled = $('kill-now').disabled = false; }, ASK_MS);
  }

  // Offers all answers, or only the one that closes the sheet.
  function showAnswers(isAsked) {
    for (const id of ['sure-choice', 'kill-now', 'yes']) $(id).hidden = !isAsked;
    set($('no'), isAsked ? T.cancel : T.close);
  }

  const ownGrace = () => c.run?.grace_s ?? grace();

  // Offers the run's own grace among the others, in order.
  function offerGraces() {
    const own = ownGrace(), graces = [...new Set([own, ...GRACES_S])].sort((a, b) => a - b);
    $('grace').replaceChildren(...graces.map((s) => new Option(s === null ? T.ownGrace : span(s), s === own ? '' : s, s === own, s === own)));
  }

  function showGrace() {
    const chosen = $('grace').value === '' ? ownGrace() : Number($('grace').value);
    const isKill = question.action === 'kill';
    set($('sure-text'), isKill ? T.killText : T.stopText(chosen));
    set($('sure-grace'), chosen === null ? '…' : T.dial(chosen));
    $('sure').querySelector('.left').style.strokeDasharray = '100 100';
  }

  // Sends an action. It names the run that the page shows as the latest: the server refuses it if another run has begun.
  async function act(action, given = {}) {
    const path = { kill: 'stop', longer: 'stop' }[action] ?? action;
    const own = { start: () => starts()?.body, kill: () => ({ grace_s: 0 }), longer: () => ({ grace_s: Math.ceil(secondsLeft()) + LONGER_S }) };
    const body = { ...(Object.keys(given).length ? given : own[action]?.() ?? {}) };
    body.if_run_id = question?.action === action ? question.run : c.pipeline.run_id;
    question = null;
    // The server answers a stop only when the run ends, and the user may move the deadline again before that.
    if (action !== 'longer') asked.add(action);
    clicked = performance.now();
    awaited = c.pipeline.version + 1;
    clearNotice();
    redraw();
    setTimeout(redraw, SETTLE_MS + 20);
    let isInDoubt = false, posted;
    const key = crypto.getRandomValues(new Uint32Array(4)).join('-');
    try {
      const post = () => ask(`api/pipeline/${path}`, null, ACT_MS, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
        body: JSON.stringify(body),
      }, toThisServer());
      // If the answer is lost, the request is repeated once. With the same key, the server does nothing twice.
      posted = await post().catch(() => new Promise((done) => setTimeout(done, SETTLE_MS)).then(post));
      if (posted.body.error === 'other_server' && await whoAnswers(null)) posted = await post();
      const { ok, status, body: answer } = posted;
      awaited = (ok && answer.version) || 0;
      // Shows the run that was started.
      if (ok && path === 'start') location.hash = '#/';
      // Opens the form, which asks for the missing values.
      else if (answer.error === 'not_repeatable' && body.again) startForm({ run: body.again, isMissing: true });
      else if (!ok && !isDone(path, answer, body)) {
        showError(didNotWork(action), { error: answer.error, detail: answer.detail || ANSWERED(status) });
      }
    } catch {
      awaited = 0;
      isInDoubt = true;
      showError(didNotWork(action), { error: 'lost', detail: BROKE });
    }
    asked.delete(action);
    after(isInDoubt);
    redraw();
    return posted ?? null;
  }

  // Returns whether a refused action needs no error message: it is still under way, or another page did the same a moment before.
  function isDone(path, { error }, { again }) {
    const { state, pending } = c.pipeline;
    if (error === 'run_changed') return !!again;
    if (error === 'still_under_way') return path === 'stop';
    return error === 'invalid_transition' && (pending === path || state === { pause: 'paused', resume: 'running', stop: 'stopped' }[path]);
  }

  const secondsLeft = () => Math.max(0, (Date.parse(c.pipeline.kill_at) - c.now) / 1000);

  for (const action of ['start', 'pause', 'resume', 'longer']) onMeantClick($(action), () => act(action));
  for (const action of ['stop', 'kill']) onMeantClick($(action), () => askWhether(action));
  watchForFocus(redraw);
  onMeantClick($('yes'), () => {
    const { action } = question, grace = $('grace').value;
    $('sure').close();
    act(action, action === 'stop' && grace !== '' ? { grace_s: Number(grace) } : {});
  });
  onMeantClick($('kill-now'), () => {
    $('sure').close();
    question = { ...question, action: 'kill' };
    act('kill');
  });
  $('no').onclick = () => $('sure').close();
  $('sure').onclose = redraw;
  $('grace').onchange = showGrace;
  $('hide').onclick = () => {
    hidden = c.pipeline.run_id;
    redraw();
    $('controls').focus();
  };
  $('unhide').onclick = () => {
    hidden = null;
    redraw();
    $('hide').focus();
  };
  // The second press of a double click must not select text that has appeared in the button's place.
  addEventListener('mousedown', (event) => { if (performance.now() - clicked < SETTLE_MS) event.preventDefault(); });
  onMeantClick($('new-run'), () => {
    if (c.pipeline.default_script && c.pipeline.allowed.includes('start')) act('start', { script: c.pipeline.default_script });
    else startForm({});
  });
  $('choose').onclick = () => startForm({ script: c.pipeline.default_script });

  // Presses a button by its key.
  function press(action) {
    if (!$(action).hidden && !$(action).disabled && isSettled(performance.now())) act(action);
  }

  return { show, tick, act, press, isBusy: () => asked.size > 0, forget: () => { awaited = 0; } };
}
