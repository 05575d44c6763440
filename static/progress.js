// How far the pipeline says that it is: a bar with per cent and words, and the steps with how long each took. A step's time stands still while
// the pipeline is paused, as the server counts it too; for the running one the pauses are read from the run's history.

import { since, took, visible } from './words.js';

const END_PX = 40; // this close to the end is at the end

const $ = (id) => document.getElementById(id);

let shown = null;       // {run, progress}: the latest word
let pipeline = null;
let pauses = [];        // of the run: [from, to] in ms; the last may have no end
let askedFor = '';

// Takes what the state says, or an event. `now` is the server's time, `ask` a request as app.js makes it.
export function showProgress(run, progress, state, now, ask) {
  pipeline = state;
  shown = progress;
  draw(now);
  // The pauses are learned anew with each change of the state, and only while a step needs them.
  const key = `${run} ${pipeline.version}`;
  if (!running() || askedFor === key) return;
  askedFor = key;
  learnPauses(run, ask).then((learned) => {
    // Another run may have begun meanwhile.
    if (askedFor !== key) return;
    pauses = learned;
    draw(now);
  }, () => { askedFor = ''; });
}

async function learnPauses(run, ask) {
  const { ok, body } = await ask(`api/runs/${run}`, null, 10000);
  if (!ok) throw new Error('no history');
  const learned = [];
  for (const { kind, at } of body.run.events) {
    if (kind === 'paused') learned.push([Date.parse(at), Infinity]);
    else if (learned.length && kind !== 'usage') learned.at(-1)[1] = Math.min(learned.at(-1)[1], Date.parse(at));
  }
  return learned;
}

function running() {
  return shown?.steps.find((step) => step.ended_at === null);
}

// How long a step has run by now, in ms.
function elapsed(step, now) {
  if (step.ms !== null) return step.ms;
  const from = Date.parse(step.started_at);
  const to = Math.max(from, step.ended_at ? Date.parse(step.ended_at) : now);
  const paused = pauses.reduce((sum, [begin, end]) => sum + Math.max(0, Math.min(end, to) - Math.max(begin, from)), 0);
  return to - from - paused;
}

// Draws what may have changed by itself: the time of the step that runs.
export function tick(now) {
  if (running() && pipeline.state === 'running') draw(now);
}

function draw(now) {
  const section = $('progress');
  section.hidden = !shown;
  if (!shown) return;
  const { percent, text, steps, steps_before: before } = shown;
  const bar = $('bar');
  bar.hidden = percent === null;
  if (percent !== null) {
    bar.setAttribute('aria-valuenow', percent);
    bar.setAttribute('aria-valuetext', visible(`${percent} %${text ? `, ${text}` : ''}`));
    bar.firstElementChild.style.width = `${percent}%`;
  }
  set($('percent'), percent === null ? '' : `${percent} %`);
  set($('doing'), text ?? '');
  $('doing').title = visible(text ?? '');
  const list = $('steps');
  list.hidden = !steps.length;
  set($('steps-before'), before ? `${before} earlier step${before === 1 ? '' : 's'}` : '');
  list.start = before + 1;
  // The list is not high: it shows the step that runs, unless one reads further up.
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < END_PX;
  while (list.children.length > steps.length) list.lastChild.remove();
  steps.forEach((step, n) => {
    if (!list.children[n]) {
      const item = document.createElement('li');
      item.append(document.createElement('span'), ' ', document.createElement('time'));
      list.append(item);
    }
    const [name, time] = list.children[n].children;
    set(name, step.name);
    set(time, (step.ended_at === null ? since : took)(elapsed(step, now)));
    if (step.ended_at === null) list.children[n].setAttribute('aria-current', 'step');
    else list.children[n].removeAttribute('aria-current');
  });
  if (isAtEnd) list.scrollTop = list.scrollHeight;
  list.tabIndex = list.scrollHeight > list.clientHeight ? 0 : -1;
}

function set(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
}
