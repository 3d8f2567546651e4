//! Which protocols a server speaks, and whose it is.

use std::sync::Arc;

use nobat_core::{Error, Result};
use reqwest::Url;

use super::description::ModelDescription;
use super::http;
use super::protocol::CallProtocol;
use super::target::{Target, TargetSettings};

/// Whose server it is: nobat's answers are documented to the code, those of others by
/// their protocol alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// nobat.
    Nobat,
    /// Another, by the name that it gives itself.
    Other(String),
}

/// A model on a server, over all protocols that it speaks.
#[derive(Clone)]
pub struct Served {
    /// Whose server it is.
    pub kind: ServerKind,
    /// The model.
    pub model: Arc<ModelDescription>,
    /// The protocols spoken, the first of them for what needs but one.
    pub targets: Vec<Target>,
    /// Those that are not, and why.
    pub absent: Vec<(CallProtocol, String)>,
}

impl Served {
    /// Finds out. With `only`, other protocols are not looked for. `described` stands for
    /// what a server does not say about its model.
    ///
    /// # Errors
    /// `invalid_parameter` where nothing that was looked for is spoken: what each attempt
    /// was answered.
    pub async fn discover(
        settings: &TargetSettings,
        only: Option<CallProtocol>,
        described: Option<&ModelDescription>,
    ) -> Result<Served> {
        let mut settings = settings.clone();
        if settings.grpc.is_none() {
            settings.grpc = grpc_beside(&settings.url);
        }
        let (mut targets, mut absent, mut model) = (Vec::new(), Vec::new(), None::<ModelDescription>);
        let kind = kind(&settings).await?;
        for protocol in CallProtocol::ALL {
            if only.map_or(protocol == CallProtocol::Json && settings.template.is_none(), |only| only != protocol) {
                continue;
            }
            let target = match Target::new(settings.clone(), protocol) {
                Ok(target) => target,
                Err(error) if only.is_some() => return Err(error),
                Err(error) => {
                    absent.push((protocol, error.message));
                    continue;
                }
            };
            let known = match protocol {
                CallProtocol::Json => described.cloned().ok_or_else(|| "it needs golden inputs and outputs".into()),
                // An extension that its users announce; where they do not, it is not to be expected.
                CallProtocol::V2Binary if kind != ServerKind::Nobat && only.is_none() => match binary(&target).await {
                    true => target.describe().await,
                    false => Err("the server does not announce the extension `binary_tensor_data`".into()),
                },
                _ => target.describe().await,
            };
            match known {
                Ok(known) => {
                    // The native description says most; an empty one least.
                    let better = match &model {
                        None => true,
                        Some(model) => model.inputs.is_empty() || known.max_rows.is_some() && model.max_rows.is_none(),
                    };
                    if better {
                        model = Some(known);
                    }
                    targets.push(target);
                }
                Err(why) => absent.push((protocol, why)),
            }
        }
        let Some(mut model) = model else {
            let told: Vec<String> =
                absent.iter().map(|(protocol, why)| format!("{}: {why}", protocol.name())).collect();
            return Err(Error::invalid(format!(
                "model `{}` is not served at {}; is the server running, and is it the right --protocol? {}",
                settings.model,
                settings.url,
                told.join("; ")
            )));
        };
        if let Some(described) = described.filter(|_| model.inputs.is_empty() || model.outputs.is_empty()) {
            model.inputs.clone_from(&described.inputs);
            model.outputs.clone_from(&described.outputs);
            model.batched = described.batched;
        }
        Ok(Served { kind, model: Arc::new(model), targets, absent })
    }

    /// The target of a protocol, where it is spoken.
    pub fn target(&self, protocol: CallProtocol) -> Option<&Target> {
        self.targets.iter().find(|target| target.protocol() == protocol)
    }
}

/// nobat says so at `/v2`.
async fn kind(settings: &TargetSettings) -> Result<ServerKind> {
    let target = Target::new(settings.clone(), CallProtocol::V2)?;
    let name = match http::get(&target, &["v2"]).await {
        Ok(server) => server["name"].as_str().unwrap_or("a server without a name").to_owned(),
        Err(_) => "a server that does not say its name".to_owned(),
    };
    Ok(if name == "nobat" { ServerKind::Nobat } else { ServerKind::Other(name) })
}

async fn binary(target: &Target) -> bool {
    let server = http::get(target, &["v2"]).await.unwrap_or_default();
    server["extensions"].as_array().is_some_and(|list| list.iter().any(|name| name == "binary_tensor_data"))
}

/// The port after the HTTP one, where servers of the Open Inference Protocol have gRPC.
pub fn grpc_beside(url: &str) -> Option<String> {
    let url: Url = url.parse().ok().filter(|url: &Url| url.scheme() == "http")?;
    let port = url.port_or_known_default()?.checked_add(1)?;
    Some(format!("http://{}:{port}", url.host_str()?))
}
