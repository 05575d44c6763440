//! Whether all sources agree: the API, the database, the journal, the PAUSE file and the kernel.

use std::collections::BTreeSet;
use std::fmt::Debug;

use serde_json::Value;

use super::kernel;
use super::support::Place;

/// The common state of all sources.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    pub(crate) state: String,
    pub(crate) run_id: i64,
    pub(crate) pid: Option<u32>,
    pub(crate) version: i64,
    /// The latest run with its events, or null before the first.
    pub(crate) run: Value,
    /// All processes of the live run, by environment or by descent.
    pub(crate) kin: Vec<kernel::Identity>,
}

pub(crate) fn same<T: PartialEq + Debug>(what: &str, left: &T, right: &T) -> Result<(), String> {
    if left == right { Ok(()) } else { Err(format!("{what}: {left:?} and {right:?}")) }
}

/// Sends a request. Returns an error if the server does not respond, or responds with another status than 200.
pub(crate) fn ask(place: &Place, path: &str) -> Result<Value, String> {
    let answer = place.try_request("GET", path, &[], None).ok_or_else(|| format!("the server does not answer {path}"))?;
    if answer.status == 200 { Ok(answer.body) } else { Err(format!("{path} answers {} {}", answer.status, answer.body)) }
}

/// Reads all sources once.
pub(crate) fn look(place: &Place) -> Result<Sight, String> {
    let pipeline = ask(place, "/api/pipeline")?["pipeline"].take();
    let state = pipeline["state"].as_str().unwrap_or_default().to_owned();
    same("under way", &Value::Null, &pipeline["pending"])?;
    // A process that was continued during a pause is stopped again, and the condition stays until the run is resumed.
    let is_known = |condition: &&Value| state == "paused" && condition["code"] == "pause_not_holding";
    let health = ask(place, "/api/health")?;
    let conditions = health["conditions"].as_array().ok_or("health has no conditions")?;
    same("conditions", &None, &conditions.iter().find(|condition| !is_known(condition)))?;
    let pid = pipeline["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let run_id = pipeline["run_id"].as_i64().unwrap_or(0);
    let version = pipeline["version"].as_i64().unwrap_or(-1);

    let sql = place.sql();
    let stored: Result<(String, Option<u32>, Option<i64>, i64), _> =
        sql.query_row("SELECT state, pid, run_id, version FROM pipeline_state", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        });
    let stored = stored.map_err(|error| format!("the database does not tell: {error}"))?;
    same("API and database", &(state.clone(), pid, pipeline["run_id"].as_i64(), version), &stored)?;
    let live = "SELECT count(*) FROM pipeline_runs WHERE status IN ('starting', 'running', 'paused')";
    let live: i64 = sql.query_row(live, [], |row| row.get(0)).map_err(|error| format!("the database does not tell: {error}"))?;
    let lives = state != "stopped";
    same("live runs in the database", &i64::from(lives), &live)?;
    same("PAUSE file", &(state == "paused"), &place.pause_file().exists())?;

    let shims = place.shims();
    same("state and shims", &usize::from(lives), &shims.len())?;
    let shim = shims.first().copied();
    let kin = look_at_the_kernel(place, &state, run_id, pid, shim)?;
    if run_id == 0 {
        return Ok(Sight { state, run_id, pid, version, run: Value::Null, kin });
    }

    let run = ask(place, &format!("/api/runs/{run_id}"))?["run"].take();
    same("run and pipeline", &run["status"], &pipeline["status"])?;
    same_as_journal(place, &run, &state)?;
    Ok(Sight { state, run_id, pid, version, run, kin })
}

fn look_at_the_kernel(
    place: &Place,
    state: &str,
    run_id: i64,
    pid: Option<u32>,
    shim: Option<u32>,
) -> Result<Vec<kernel::Identity>, String> {
    let all = kernel::all(&place.runtime());
    let mut members = shim.map_or_else(BTreeSet::new, |shim| kernel::descendants(&all, shim));
    let by_descent = members.clone();
    members.extend(all.values().filter(|process| process.run_id.is_some() && process.is_alive()).map(|process| process.pid));
    for pid in &members {
        if let Some(of_run) = all[pid].run_id
            && (state == "stopped" || of_run != run_id)
        {
            return Err(format!("a process of run {of_run} is alive: {}", super::support::describe(*pid)));
        }
    }
    if let Some(pid) = pid {
        same("the leader lives", &true, &by_descent.contains(&pid))?;
    }
    let stopped: Vec<u32> = members.iter().copied().filter(|pid| all[pid].letter == 'T').collect();
    match state {
        "paused" => {
            // A process that was continued from outside shows another state letter in a frozen control group.
            let held = kernel::held(place.cgroup(run_id).as_deref());
            let awake: Vec<u32> = members.iter().copied().filter(|pid| all[pid].letter != 'T' && !held.contains(pid)).collect();
            same("all are stopped", &Vec::new(), &awake)?;
            // A process that escapes one scan is found by the next.
            let again = kernel::all(&place.runtime());
            let is_awake = |pid: &u32| again[pid].letter != 'T' && !held.contains(pid);
            let awake = kernel::descendants(&again, shim.unwrap_or(0)).into_iter().filter(is_awake);
            same("all are still stopped", &Vec::<u32>::new(), &awake.collect())?;
        }
        "running" => same("nobody is stopped", &Vec::<u32>::new(), &stopped)?,
        _ => {}
    }
    Ok(members.iter().map(|pid| all[pid].identity()).collect())
}

/// Checks that the journal and the events agree.
fn same_as_journal(place: &Place, run: &Value, state: &str) -> Result<(), String> {
    let run_id = run["id"].as_i64().unwrap_or(0);
    let journal = place.journal(run_id);
    let events = run["events"].as_array().ok_or("a run has events")?;
    let told: Vec<&str> = events.iter().skip(1).map(|event| event["kind"].as_str().unwrap_or_default()).collect();
    let written: Vec<&str> = journal.iter().skip(1).map(|line| line["fact"].as_str().unwrap_or_default()).collect();
    let unseen = match told.last() {
        Some(&"lost") => 1,
        // Found out at boot, without a journal.
        Some(&"spawn_failed") if written.is_empty() => 1,
        _ => 0,
    };
    same("events and journal", &&told[..told.len() - unseen], &&written[..])?;
    if unseen == 0 {
        let state_of = |state, fact: &&str| match *fact {
            "spawned" | "resumed" => "running",
            "paused" => "paused",
            "exited" | "spawn_failed" => "stopped",
            _ => state,
        };
        same("state and journal", &state, &written.iter().fold("stopped", state_of))?;
    }
    Ok(())
}
