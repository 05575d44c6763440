//! Checks that `docs/api-contracts.md` and the types of the contract agree.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use autoappdev::api::error::ErrorCode;
use autoappdev::api::health::HealthResponse;
use autoappdev::api::logs::{LogSearchResponse, LogsResponse};
use autoappdev::api::pipeline::{ActionResponse, PipelineResponse, StatusResponse};
use autoappdev::api::query::Kind;
use autoappdev::api::routes::Route;
use autoappdev::api::runs::{CompletedRun, RunsResponse};
use autoappdev::api::session::{LoginResponse, SessionResponse};
use autoappdev::api::version::{ProofResponse, VersionResponse};
use autoappdev::pipeline::Outcome;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn contract() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api-contracts.md")).expect("the contract")
}

/// Returns the rows of the table below a heading.
fn table<'d>(docs: &'d str, heading: &str) -> Vec<&'d str> {
    let section = docs.split_once(&format!("\n## {heading}\n")).expect("the heading").1;
    section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2).collect()
}

#[test]
fn docs_list_every_route_of_the_route_table() {
    let mut wanted = String::new();
    for spec in Route::ALL.iter().map(|route| route.spec()) {
        let key = |key: &autoappdev::api::query::Key| match key.kind {
            Kind::Number(_, u64::MAX) | Kind::Word(_) | Kind::Words(_) | Kind::Text(_) | Kind::Time | Kind::Switch => {
                format!("`{}`", key.name)
            }
            Kind::Number(at_least, at_most) if at_most > 1 << 53 => format!("`{}` {at_least}–", key.name),
            Kind::Number(at_least, at_most) => format!("`{}` {at_least}–{at_most}", key.name),
        };
        let keys = spec.keys.map_or("any".to_owned(), |keys| keys.iter().map(key).collect::<Vec<_>>().join(", "));
        let [access, length] = [format!("{:?}", spec.access), format!("{:?}", spec.length)].map(|word| word.to_lowercase());
        let (method, path) = (spec.method, spec.path);
        writeln!(
            wanted,
            "| `{method} {path}` | {access} | {keys} | {} | {} | {length} | {} |",
            spec.request, spec.response, spec.summary
        )
        .expect("a string takes everything");
    }
    let docs = contract();
    assert_eq!(table(&docs, "Routes"), wanted.lines().collect::<Vec<_>>(), "the table under \"Routes\" should be\n{wanted}");
}

#[test]
fn docs_list_every_error_code_with_its_status_and_retry_after() {
    let row = |code: &ErrorCode| {
        let retry = code.retry_after_s().map_or_else(|| "–".to_owned(), |seconds| seconds.to_string());
        format!("| {} | `{code}` | {retry} |", code.status())
    };
    let wanted: Vec<String> = ErrorCode::ALL.iter().map(row).collect();
    let docs = contract();
    let listed = table(&docs, "Codes");
    let missing: Vec<&String> = wanted.iter().filter(|wanted| !listed.iter().any(|row| row.starts_with(*wanted))).collect();
    assert!(missing.is_empty(), "docs/api-contracts.md has no rows that begin with {missing:#?}");
    assert_eq!(listed.len(), wanted.len(), "docs/api-contracts.md has more codes than src/api/error.rs, or one of them twice");
}

/// Returns the first JSON document after `mark`, from a block or a line of code.
fn example(docs: &str, mark: &str) -> Value {
    let behind = docs.split_once(mark).unwrap_or_else(|| panic!("{mark} is not in the contract")).1;
    let text = &behind[behind.find('{').expect("an example")..];
    serde_json::Deserializer::from_str(text)
        .into_iter()
        .next()
        .expect("a document")
        .unwrap_or_else(|e| panic!("{mark}: {e}: {text:.200}"))
}

/// Checks that the type can be read from the example and is written as the example: the same keys and the same form.
fn is_example_of<T: Serialize + DeserializeOwned>(example: &Value) {
    let read: T = serde_json::from_value(example.clone()).unwrap_or_else(|error| panic!("{error}: {example}"));
    assert_eq!(&serde_json::to_value(read).expect("plain data"), example, "{}", std::any::type_name::<T>());
}

#[test]
fn doc_examples_round_trip_through_api_types() {
    let docs = contract();
    is_example_of::<PipelineResponse>(&example(&docs, "### `GET /api/pipeline`\n"));
    is_example_of::<StatusResponse>(&example(&docs, "### `GET /api/pipeline/status`\n"));
    for action in ["`200 {\"ok\":true,\"state\":\"running\"", "`200 {\"ok\":true,\"state\":\"paused\""] {
        let at = docs.find(action).expect("an answer to an action");
        is_example_of::<ActionResponse>(&example(&docs[at..], "`200 "));
    }
    is_example_of::<LoginResponse>(&example(&docs, "for a one-time code: `200 "));
    is_example_of::<LogsResponse>(&example(&docs, "- `GET /api/logs?"));
    is_example_of::<LogSearchResponse>(&example(&docs, "### `GET /api/runs/<id>/log/search`\n"));
    is_example_of::<VersionResponse>(&example(&docs, "- `GET /api/version`:"));
    is_example_of::<ProofResponse>(&example(&docs, "- `GET /api/version?challenge="));
    is_example_of::<SessionResponse>(&example(&docs, "- `GET /api/session`: `"));
    is_example_of::<RunsResponse>(&example(&docs, "- `GET /api/runs?"));
    is_example_of::<Outcome>(&example(&docs, "### Outcome\n"));
    is_example_of::<CompletedRun>(&example(&docs, "`previous` is the latest completed run"));
    let health = docs.find("- `GET /api/health`").expect("health");
    is_example_of::<HealthResponse>(&example(&docs[health..], "`200 "));
}
