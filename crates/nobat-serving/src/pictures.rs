//! Pictures that a request gives otherwise than by their bytes: as a `data:` URL, or by the
//! address where they are to be had. They are replaced before anything else sees the request,
//! whatever its protocol: its cache key, its job and its recording are those of the bytes.

use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use nobat_core::{Error, Result, data_url};
use nobat_webhooks::outbound::Fetcher;

/// How an element gives its picture.
enum Given<'a> {
    Bytes(&'a [u8]),
    DataUrl(&'a [u8]),
    Address(&'a str),
}

impl<'a> Given<'a> {
    /// No picture begins like a URL.
    fn of(element: &'a [u8]) -> Given<'a> {
        let begins = |scheme: &str| {
            element.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
        };
        match std::str::from_utf8(element.get(..8).unwrap_or(element)) {
            Ok(_) if data_url::is_one(element) => Given::DataUrl(element),
            Ok(_) if begins("https://") || begins("http://") => match std::str::from_utf8(element) {
                Ok(address) => Given::Address(address),
                Err(_) => Given::Bytes(element),
            },
            _ => Given::Bytes(element),
        }
    }
}

/// The input of pictures of this request, if any of its elements is a URL.
fn to_replace<'a>(signature: &ModelSignature, request: &'a InferRequest) -> Option<(usize, &'a Tensor)> {
    let input = signature.picture_input()?;
    let (at, tensor) = request.inputs.iter().enumerate().find(|(_, tensor)| tensor.name == input.name)?;
    let whole = tensor.datatype == Datatype::Bytes && tensor.check().is_ok();
    let is_url = |element: &[u8]| !matches!(Given::of(element), Given::Bytes(_));
    (whole && elements(tensor).any(is_url)).then_some((at, tensor))
}

/// Whether [`replace`] has anything to do.
pub(crate) fn are_urls(signature: &ModelSignature, request: &InferRequest) -> bool {
    to_replace(signature, request).is_some()
}

/// Replaces URLs among a request's pictures by the pictures.
///
/// # Errors
/// `invalid_tensor` for a `data:` URL that is none in base64; those of [`Fetcher::fetch`].
pub(crate) async fn replace(
    fetcher: &Fetcher,
    signature: &ModelSignature,
    mut request: InferRequest,
) -> Result<InferRequest> {
    let Some((at, tensor)) = to_replace(signature, &request) else { return Ok(request) };
    let given: Vec<Given<'_>> = elements(tensor).map(Given::of).collect();
    let addresses: Vec<&str> = given
        .iter()
        .filter_map(|given| match given {
            Given::Address(address) => Some(*address),
            _ => None,
        })
        .collect();
    let mut fetched = fetcher.fetch(&addresses).await?.into_iter();
    let mut data = Vec::new();
    for (row, given) in given.iter().enumerate() {
        match given {
            Given::Bytes(bytes) => put_bytes_element(&mut data, bytes),
            Given::DataUrl(url) => {
                let named = |error: Error| Error {
                    message: format!("input `{}`: element {row} {}", tensor.name, error.message),
                    ..error
                };
                put_bytes_element(&mut data, &data_url::decode(url).map_err(named)?);
            }
            // As many came as were asked for.
            Given::Address(_) => put_bytes_element(&mut data, &fetched.next().unwrap_or_default()),
        }
    }
    request.inputs[at].data = Bytes::from(data);
    Ok(request)
}

fn elements(tensor: &Tensor) -> impl Iterator<Item = &[u8]> {
    let mut rest = &tensor.data[..];
    std::iter::from_fn(move || take_bytes_element(&mut rest))
}
