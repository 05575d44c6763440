// The part above the log: the state of the pipeline in the top bar, the title and the favicon; the banners; and the progress line of the run that
// is shown. Text from outside is inserted by textContent only.

import { $, el, set, tint, useIcon } from './dom.js';
import { build, folder, host } from './session.js';
import {
  bytes, HINTS, isBehind, localTime, look, minute, NO_HINT, plan, row, sentence, shellWords, stop, T, timeLeft, title, visible, when,
} from './words.js';

const SPARK_MAX = 40;      // points of the small CPU chart
const STAMP = /\b\d{4}-\d\d-\d\dT[\d:.]+Z/g; // a timestamp in a text of the server
const ICON_MS = 3000;      // when the icon for a lost connection is loaded: after the loss that is not possible

let spark = [];            // [at, percent] of the run that is shown
let sparkOf = null;

// Shows the whole part. Returns the words for the state.
export function showHead(c) {
  showConnection(c);
  showServer();
  if (!c.pipeline) return null;
  const looks = tick(c);
  const { pipeline: p } = c;
  showConditions(c);
  // A detail that is also a condition is shown only once.
  const detail = c.connected && c.isLatest && p.detail ? sentence(p.detail) : '';
  set($('detail'), detail);
  $('detail').hidden = !detail;
  showScript(c);
  $('elsewhere').hidden = c.isLatest || c.id === null;
  if (!$('elsewhere').hidden) {
    set($('elsewhere').firstElementChild, T.elsewhere(c.id, p.run_id, looks.word));
    set($('elsewhere').lastElementChild, T.showIt(p.run_id));
  }
  const name = $('run-name').firstElementChild;
  set(name, c.id === null ? '' : T.runName(c.id));
  name.title = T.lasting;
  // On a phone, the name is for screen readers only.
  if (innerWidth > 760 && c.id !== null) name.href = c.address({ ...c.route, run: c.id });
  else name.removeAttribute('href');
  // A phone has other tabs than a desktop, and each may open an address that the other has made.
  const current = innerWidth > 760 ? c.route.tab.replace('runs', 'log') : c.route.tab.replace(/usage|details/, 'more');
  for (const tab of $('tabs').children) {
    tab.href = c.address({ run: c.route.run, tab: tab.dataset.tab });
    tab.ariaCurrent = tab.dataset.tab === current ? 'page' : null;
  }
  return looks;
}

// Shows the script and arguments of the run that is shown, or of the run that a start would begin.
function showScript({ state, brief }) {
  const script = state.script ?? '', args = brief?.args.length ? ` ${shellWords(brief.args)}` : '';
  const words = visible(script + args);
  if ($('script').title === words) return;
  $('script').title = words;
  $('script').replaceChildren(el('b', '', script), visible(args));
}

// Updates what changes with time: durations, the title, the progress. Returns the words for the state.
export function tick(c) {
  const { pipeline: p, state, now } = c;
  const pause = c.isLatest ? c.run?.events?.findLast(({ kind }) => kind === 'paused') : null, heard = c.connected ? null : c.heard;
  // The window's title and icon describe the latest run; the page describes the run that it shows.
  const looks = look(c.isLatest ? state : p, now, heard, pause), own = c.isLatest ? looks : look(state, now, heard);
  document.body.dataset.tone = looks.tone;
  set($('state'), own.word);
  set($('status'), own.detail ?? '');
  tint($('pill'), own.tone);
  useIcon($('symbol'), own.tone);
  const at = state.stopped_at ?? state.paused_at ?? state.started_at;
  $('pill').title = state.error && state.state === 'stopped' ? visible(stop(state.error)) : at ? visible(localTime(Date.parse(at), now)) : '';
  const next = c.connected ? plan(p.next, now) : '';
  set($('next'), next);
  $('next').hidden = !next;
  set($('live').lastElementChild, c.connected ? (c.isStreaming ? T.live : T.polling) : T.retrying);
  const icon = `static/icon-${looks.tone}.svg`;
  if ($('icon').getAttribute('href') !== icon) $('icon').setAttribute('href', icon);
  const words = title(looks, p, host());
  const shown = c.locked && !c.connected ? `${T.logIn} · ${words}` : words;
  if (document.title !== shown) document.title = shown;
  const count = (c.progress?.steps.length ?? 0) + (c.progress?.steps_before ?? 0);
  set($('step-count'), count ? String(count) : '');
  showProgress(c, looks);
  return looks;
}

function showServer() {
  set($('host'), host() ?? 'AutoAppDev');
  set($('folder'), folder());
  set($('version'), build());
  $('box').title = visible(folder());
}

function showConnection({ connected, locked, failures, refusal, pipeline, heard }) {
  const banner = $('connection');
  banner.hidden = connected || locked || !failures;
  if (banner.hidden) return;
  set(banner, refusal ? T.refused(refusal) : pipeline ? T.noContact(minute(heard), pipeline.state) : T.never);
}

// Shows the problems that the server reports. Without a connection they may be outdated, so none is shown.
function showConditions({ connected, pipeline, now }) {
  const all = connected ? pipeline.conditions ?? [] : [];
  // If the disk is full, the warning about low space is left out.
  const isFull = all.some(({ code }) => code === 'disk_full');
  const shown = all.filter(({ code }) => !(code === 'pause_not_holding' && pipeline.detail) && !(code === 'disk_low' && isFull));
  const key = JSON.stringify(shown);
  const box = $('conditions');
  box.hidden = !shown.length;
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  tint(box, shown.some(({ code }) => /disk_full|dropped|failing|replaced|not_recorded/.test(code)) ? 'failed' : 'paused');
  const local = (stamp) => localTime(Date.parse(stamp), now);
  box.replaceChildren(...shown.map(({ since: at, detail }) =>
    el('p', '', `${sentence(detail.replace(STAMP, local))} `, el('time', { dateTime: at, title: at }, T.since(local(at))))));
}

// ---- The progress line ----------------------------------------------------------------------------------------------------

// Returns how long the run has been active by `at`, in ms.
function activeMs(run, p, isLatest, at) {
  const started = Date.parse(isLatest ? p.started_at : run.started_at);
  let paused = run?.paused_ms ?? 0;
  if (isLatest && p.state === 'paused' && p.paused_at) paused += Math.max(0, at - Date.parse(p.paused_at));
  return Math.max(0, at - started - paused);
}

function showProgress(c, looks) {
  const { pipeline: p, run, progress, isLatest, now } = c;
  const line = $('progress');
  if (c.id === null) return;
  const isAlive = isLatest && p.state !== 'stopped';
  const tone = isLatest ? looks.tone : run ? row(run).tone : 'idle';
  tint(line, tone);
  line.classList.toggle('ended', (!isAlive && tone !== 'succeeded') || ['disconnected', 'doubt'].includes(tone));
  const percent = progress?.percent ?? null;
  const bar = $('bar');
  bar.classList.toggle('none', percent === null);
  bar.ariaValueNow = percent ?? 0;
  bar.ariaValueText = visible(percent === null ? T.noPercent : `${percent} %${progress?.text ? `, ${progress.text}` : ''}`);
  bar.firstElementChild.style.width = `${percent ?? 0}%`;
  set($('percent'), progress?.percent == null ? '' : `${Math.floor(percent)} %`);
  const steps = progress?.steps ?? [];
  const step = steps.length ? T.stepOf(steps.length + progress.steps_before, steps.at(-1).name) : '';
  const started = isLatest ? p.started_at : run?.started_at;
  set($('doing'), [progress?.text, step].filter(Boolean).join(' · ') || (started ? T.startedAt(when(Date.parse(started), now)) : ''));
  $('doing').title = $('doing').textContent;
  set($('time-left'), timeWords(c, isAlive, percent));
  showSigns(c, isAlive && c.connected && tone !== 'doubt');
}

function timeWords({ pipeline: p, run, progress, isLatest, connected, heard, now }, isAlive, percent) {
  const ended = isLatest ? p.stopped_at : run?.stopped_at;
  if (!connected && isAlive) return T.asOf(minute(heard));
  if (!isAlive) return ended ? T.endedAt(when(Date.parse(ended), now)) : '';
  if (p.state === 'paused') return p.paused_at ? T.sinceAt(minute(Date.parse(p.paused_at))) : '';
  if (p.pending === 'stop' || isBehind(p) || !p.started_at) return '';
  const told = progress?.at ? activeMs(run, p, true, Date.parse(progress.at)) : 0;
  return timeLeft({ percent, active: activeMs(run, p, true, now), told, usual: run?.usual_ms ?? null });
}

function showSigns({ id, usage }, isAlive) {
  if (sparkOf !== id) [sparkOf, spark] = [id, []];
  $('cpu').hidden = $('memory').hidden = !isAlive || !usage;
  if (!usage || !isAlive) return;
  if (spark.at(-1)?.[0] !== usage.at) spark = [...spark, [usage.at, usage.cpu_percent]].slice(-SPARK_MAX);
  const top = Math.max(10, ...spark.map(([, percent]) => percent));
  const x = (n) => 44 - (spark.length - 1 - n) * 44 / (SPARK_MAX - 1);
  const points = spark.map(([, percent], n) => `${x(n).toFixed(1)} ${(15 - 14 * percent / top).toFixed(1)}`);
  $('spark').firstElementChild.setAttribute('d', points.length > 9 ? `M${points.join('L')}` : '');
  set($('cpu').lastElementChild, `${Math.round(usage.cpu_percent)} %`);
  set($('memory').lastElementChild, bytes(usage.memory_bytes));
}

// ---- Notices: what failed and what to do about it, until the notice is dismissed or an action is sent ------------------------

export function showError(what, answer) {
  notify(what, sentence(answer.detail), HINTS[answer.error] || NO_HINT);
}

export function notify(what, ...lines) {
  $('trouble').hidden = false;
  $('error').replaceChildren(el('strong', '', what), ...lines.map((line) => el('p', '', line)));
}

export function clearNotice() {
  if ($('trouble').contains(document.activeElement)) $('controls').focus();
  $('error').replaceChildren();
  $('trouble').hidden = true;
}

$('dismiss').onclick = clearNotice;
setTimeout(() => { new Image().src = 'static/icon-disconnected.svg'; }, ICON_MS);
