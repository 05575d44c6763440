// Notices: what did not work and what to do, in a box that can be dismissed. Text from outside is put in by textContent only.

import { HINTS, sentence, visible } from './words.js';

const $ = (id) => document.getElementById(id);

// Why an action did not work, and what to do.
export function showError(action, answer) {
  const lines = [sentence(answer.detail), HINTS[answer.error] || 'The server’s log, backend.log, may say more.'];
  notify(`${action.charAt(0).toUpperCase() + action.slice(1)} did not work.`, ...lines);
}

// Shows a notice until it is dismissed or an action is sent.
export function notify(what, ...lines) {
  $('trouble').hidden = false;
  const title = document.createElement('strong');
  title.textContent = what;
  $('error').replaceChildren(title, ...lines.map((line) => {
    const p = document.createElement('p');
    p.textContent = visible(line);
    return p;
  }));
}

export function clearNotice() {
  if ($('trouble').contains(document.activeElement)) $('controls').focus();
  $('error').replaceChildren();
  $('trouble').hidden = true;
}
