//! What clients match on, written down: a change of either file is a change of
//! the contract. `NOBAT_UPDATE_SNAPSHOTS=1` writes them anew.

use std::path::Path;

use nobat_core::ErrorCode;
use nobat_gateway::error::{grpc_code, http_status};
use nobat_gateway::routes;
use nobat_serving::metrics::is_ours;

fn compare(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http/snapshots").join(name);
    if std::env::var_os("NOBAT_UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, actual).expect("writes the snapshot");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some((at, (old, new))) = expected.lines().zip(actual.lines()).enumerate().find(|(_, (old, new))| old != new)
    {
        panic!(
            "{name} differs at line {}:\n  was {old}\n  is  {new}\nif it should, run with NOBAT_UPDATE_SNAPSHOTS=1",
            at + 1
        );
    }
    assert_eq!(
        expected.lines().count(),
        actual.lines().count(),
        "{name} has another length; see NOBAT_UPDATE_SNAPSHOTS"
    );
}

#[test]
fn every_error_code_keeps_its_statuses() {
    let lines =
        ErrorCode::ALL.iter().map(|&code| format!("{code} {} {:?}\n", http_status(code).as_u16(), grpc_code(code)));
    compare("error_codes.txt", &lines.collect::<String>());
}

#[test]
fn a_prediction_fails_on_our_side_where_its_status_says_so() {
    for code in ErrorCode::ALL {
        assert_eq!(is_ours(code), http_status(code).is_server_error(), "{code}");
    }
}

#[test]
fn the_openapi_document_is_as_it_was() {
    let document = routes::document().to_pretty_json().expect("serializes");
    compare("openapi.json", &format!("{document}\n"));
}
