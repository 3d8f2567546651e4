//! Cohere's and Jina's rerankers.

use serde_json::json;

use crate::house::House;

#[tokio::test]
async fn both_rank_documents_in_their_own_forms() {
    let house = House::start().await;
    let body = json!({"model": "rerank", "query": "abc", "documents": ["x", {"text": "abc"}, "a"], "top_n": 2});
    let cohere = house.ask("/v2/rerank", &body).await;
    assert_eq!(cohere["results"], json!([{"index": 1, "relevance_score": 3.0}, {"index": 2, "relevance_score": 1.0}]));
    assert!(cohere["id"].is_string());
    let jina = house.ask("/v1/rerank", &body).await;
    assert_eq!(jina["results"][0], json!({"index": 1, "relevance_score": 3.0, "document": {"text": "abc"}}));
    assert_eq!((&jina["model"], &jina["usage"]["total_tokens"]), (&json!("rerank"), &json!(3)));
}

#[tokio::test]
async fn refusals_say_message_and_detail_and_the_other_v2_is_untouched() {
    let house = House::start().await;
    for (path, body, status) in [
        ("/v2/rerank", json!({"query": "a", "documents": []}), 400),
        ("/v1/rerank", json!({"query": "a"}), 400),
        ("/v2/rerank", json!({"query": "a", "documents": [5]}), 400),
        ("/v1/rerank", json!({"query": "a", "documents": ["b"], "top_n": 0}), 400),
        ("/v2/rerank", json!({"query": "a", "documents": ["b"], "model": "nobody"}), 404),
    ] {
        let reply = house.post(path, &body).await;
        assert_eq!(reply.status, status, "{path} {body}: {}", reply.text);
        assert!(reply.json()["message"].is_string() && reply.json()["detail"].is_string(), "{}", reply.text);
    }
    assert_eq!(house.get("/v2/models/rerank").await.json()["name"], "rerank");
}
