//! Maps from class to probability, which no protocol carries, as tensors with labels.

use futures::future::join_all;
use nobat_core::tensor::{Datatype, take_bytes_element};

use crate::deployment::{Deployment, as_floats, floats, quick, request, test_model};

#[tokio::test]
async fn a_map_from_class_to_probability_is_a_tensor_with_labels() {
    let deployment = Deployment::of(&["map_output", "classifier"]).await;
    let signature = deployment.signature("classifier");
    let probabilities = &signature.outputs[1];
    assert_eq!((probabilities.datatype, &probabilities.shape[..]), (Datatype::Fp32, &[-1, 3][..]));
    let labels = serde_json::json!({ "output_probability": ["versicolor", "setosa", "virginica"] });
    assert_eq!(signature.settings["class_labels"], labels);
    assert_eq!(deployment.signature("map_output").settings["class_labels"]["y"], serde_json::json!(["0", "1"]));

    let (answer, _) =
        deployment.answer("map_output", &request(vec![floats("x", &[2, 2], &[0.25, 0.75, 1.0, 0.0])])).await;
    assert_eq!(
        (&answer.outputs[0].shape[..], as_floats(&answer.outputs[0])),
        (&[2, 2][..], vec![0.25, 0.75, 1.0, 0.0])
    );

    // Each caller's best class is another one; the columns are the ZipMap's, whatever order a map has.
    let callers = (0..30usize).map(|caller| {
        let deployment = &deployment;
        async move {
            let mut row = [0.0f32; 3];
            row[caller % 3] = 1.0 + caller as f32;
            let (answer, _) = deployment.answer("classifier", &request(vec![floats("x", &[1, 3], &row)])).await;
            let best = as_floats(&answer.outputs[1]).into_iter().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            assert_eq!(best.map(|(at, _)| at), Some(caller % 3), "caller {caller}");
            let label = take_bytes_element(&mut &answer.outputs[0].data[..]).map(<[u8]>::to_vec);
            let expected = ["versicolor", "setosa", "virginica"][caller % 3];
            assert_eq!(label.as_deref(), Some(expected.as_bytes()), "caller {caller}");
        }
    });
    join_all(callers).await;
    deployment.drain().await;
}

#[tokio::test]
async fn labels_that_an_owner_sets_stand_over_the_files() {
    let models = tempfile::tempdir().expect("a folder");
    std::fs::copy(test_model("classifier"), models.path().join("classifier.onnx")).expect("a test model");
    let settings =
        "[settings]\nrouting_key = \"a.b\"\nclass_labels = { output_probability = [\"one\", \"two\", \"three\"] }";
    std::fs::write(models.path().join("classifier.toml"), settings).expect("a file");
    let deployment = Deployment::start(models, quick(), Default::default()).await;
    let settings = deployment.signature("classifier").settings;
    assert_eq!(settings["class_labels"], serde_json::json!({ "output_probability": ["one", "two", "three"] }));
    assert_eq!(settings["routing_key"], "a.b");
    deployment.drain().await;
}
