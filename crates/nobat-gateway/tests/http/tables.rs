//! Tables as bodies: records, CSV, MLflow's frames; and the answers that tables get.

use nobat_gateway::GatewayConfig;
use serde_json::{Value, json};

use crate::harness::{House, people};

async fn house() -> House {
    let config = GatewayConfig { default_model: "people".into(), ..GatewayConfig::default() };
    House::start_serving(config, vec![people()]).await
}

fn expected() -> Value {
    json!([
        { "label": "Berlin", "probabilities": { "no": 0.75, "yes": 0.25 } },
        { "label": "Rome, Italy", "probabilities": { "no": 0.5, "yes": 0.5 } },
    ])
}

#[tokio::test]
async fn a_table_is_answered_with_a_record_a_row_whatever_it_comes_in() {
    let house = house().await;
    let records = json!([{ "age": 25, "city": "Berlin" }, { "city": "Rome, Italy", "age": 50.0 }]);
    let split = json!({ "columns": ["city", "age"], "data": [["Berlin", 25], ["Rome, Italy", 50]] });
    let csv = "age,city\n25,Berlin\n50,\"Rome, Italy\"\n";
    for path in ["/api/v1/predict/people?wait=20", "/v1/models/people:predict", "/invocations", "/predict"] {
        for (kind, body) in [
            ("application/json", json!({ "records": records }).to_string()),
            ("application/json", json!({ "dataframe_records": records }).to_string()),
            ("application/json", json!({ "dataframe_split": split }).to_string()),
            ("text/csv; charset=utf-8", csv.to_owned()),
            ("text/csv; header=absent", csv.split_once('\n').expect("a line").1.to_owned()),
        ] {
            let request = house.client.post(house.url(path)).header("content-type", kind).body(body.clone());
            let reply = house.send(request).await;
            assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text);
            assert_eq!(reply.json()["predictions"], expected(), "{path} {body}");
        }
    }
    // As a job: the form is asked for when the result is read.
    let accepted = house.post("/api/v1/predict/people", json!({ "records": records }).to_string()).await;
    let id = accepted.json()["id"].as_str().expect("an id").to_owned();
    let result = house.get(&format!("/api/v1/jobs/{id}/result?wait=20&form=record")).await;
    assert_eq!(result.json()["predictions"], expected(), "{}", result.text);
    let result = house.get(&format!("/api/v1/jobs/{id}/result")).await;
    assert_eq!(result.json()["predictions"][0]["output_probability"], json!([0.75, 0.25]), "{}", result.text);
    // Many at once are tables, too.
    let many = json!({ "requests": [{ "records": records }] }).to_string();
    assert_eq!(house.post("/api/v1/predict/people/many", many).await.status, 202);
    house.stop().await;
}

#[tokio::test]
async fn each_mistake_of_a_table_is_named_with_its_row_and_its_column() {
    let house = house().await;
    for (kind, body, named) in [
        ("application/json", json!({ "records": [{ "age": 1 }] }).to_string(), "the table lacks column `city`"),
        (
            "application/json",
            json!({ "records": [{ "age": 1, "city": "a" }, { "age": "old", "city": "b" }] }).to_string(),
            "records[1], column `age` is the text `old`",
        ),
        ("application/json", json!({ "records": [{ "age": null, "city": "a" }] }).to_string(), "has no value"),
        ("text/csv", "age,city\n1,a\n2\n".to_owned(), "line 3 has 1 fields"),
        ("text/csv", "age,city\nx,a\n".to_owned(), "line 2, column `age` is `x`"),
        ("text/csv", "age,city,town\n1,a,b\n".to_owned(), "does not take column `town`"),
        ("application/vnd.apache.arrow.stream", "ARROW1".to_owned(), "Arrow"),
        ("application/vnd.apache.parquet", "PAR1PAR1".to_owned(), "Parquet"),
    ] {
        let request = house.client.post(house.url("/api/v1/predict/people?wait=20")).header("content-type", kind);
        let reply = house.send(request.body(body.clone())).await;
        assert!(matches!(reply.status, 400 | 415), "{body}: {} {}", reply.status, reply.text);
        assert!(reply.text.contains(named), "{body}: {}", reply.text);
    }
    house.stop().await;
}
