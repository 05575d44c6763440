// A notice of the browser when a run ends while this page is hidden, for who has asked for that in the menu. Browsers allow it in secure contexts
// only: on this machine, or over HTTPS. Each hidden page of one server makes the same notice, with the same tag, so that one is shown.

import { set } from './head.js';
import { host } from './session.js';
import { T, visible } from './words.js';

const KEY = 'autoappdev-notify';
const button = document.getElementById('notify');
const isPossible = 'Notification' in window && isSecureContext;
let wasAlive = null;      // the run that was alive when the state was last shown

function isWanted() {
  try {
    return isPossible && Notification.permission === 'granted' && localStorage.getItem(KEY) === 'true';
  } catch {
    // The browser forbids storage.
    return false;
  }
}

function show() {
  button.hidden = !isPossible;
  button.disabled = isPossible && Notification.permission === 'denied';
  set(button, button.disabled ? T.notGranted : isWanted() ? T.notifying : T.notify);
}

button.addEventListener('click', async () => {
  const wants = !isWanted();
  if (wants) await Notification.requestPermission();
  try {
    localStorage.setItem(KEY, wants);
  } catch {
    // As above: then there are no notices.
  }
  show();
});

// Takes each state with its words.
export function tell(pipeline, looks) {
  const hasEnded = wasAlive === pipeline.run_id && pipeline.state === 'stopped' && !pipeline.pending;
  if (pipeline.state !== 'stopped') wasAlive = pipeline.run_id;
  if (!hasEnded) return;
  wasAlive = null;
  if (!document.hidden || !isWanted()) return;
  const name = visible((pipeline.script ?? '').split('/').pop());
  const notice = new Notification([name, looks.word].join(' · '), { body: visible(looks.detail ?? ''), tag: `${host()}-${pipeline.run_id}`, icon: `static/icon-${looks.tone}.svg` });
  notice.addEventListener('click', () => {
    window.focus();
    location.hash = `#/runs/${pipeline.run_id}`;
    notice.close();
  });
}

show();
