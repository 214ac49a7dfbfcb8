//! What a server says where it does not do what it was asked: a problem document, read leniently.

use std::fmt;

use reqwest::Response;
use serde_json::Value;

/// A problem document has some hundred bytes a mistake; more is not one.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// Why a server refused, with each mistake that it named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The whole, in a sentence.
    pub detail: String,
    /// Where, and what is wrong there.
    pub mistakes: Vec<(String, String)>,
}

impl Refusal {
    /// A refusal in a sentence.
    pub(super) fn new(detail: String) -> Refusal {
        Refusal { detail, mistakes: Vec::new() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mistakes.is_empty() {
            return f.write_str(&self.detail);
        }
        f.write_str("the server refuses the request:")?;
        for (place, detail) in &self.mistakes {
            write!(f, "\n  {place}: {detail}")?;
        }
        Ok(())
    }
}

/// From the body of an answer with this status.
pub(super) fn of(status: u16, body: &[u8]) -> Refusal {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(detail) = document["detail"].as_str() else {
        return Refusal::new(format!("the server answers with status {status}"));
    };
    let errors = document["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mistake = |error: &Value| {
        let places = ["pointer", "parameter", "header"];
        let place = places.iter().find_map(|place| error[place].as_str())?;
        Some((place.to_owned(), error["detail"].as_str()?.to_owned()))
    };
    Refusal { detail: detail.to_owned(), mistakes: errors.iter().filter_map(mistake).collect() }
}

/// Reads it out of an answer; what breaks off is no document.
pub(super) async fn read(mut response: Response) -> Refusal {
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = response.chunk().await {
        body.extend_from_slice(&bytes);
        if body.len() > DOCUMENT_BYTES_MAX {
            break;
        }
    }
    of(status, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_of_a_document_is_told_with_its_place() {
        let body = br#"{"detail":"two things","errors":[{"pointer":"/a/b","detail":"is wrong"},
            {"header":"Prefer","detail":"must be wait=N"},{"new_place":"x","detail":"?"}]}"#;
        let told = of(422, body).to_string();
        assert_eq!(
            told,
            "the server refuses the request:\n  /a/b: is wrong\n  Prefer: must be wait=N"
        );
    }

    #[test]
    fn what_is_no_document_is_told_by_its_status() {
        for body in [&b"<html>"[..], b"", b"{}", br#"{"detail":7}"#] {
            assert_eq!(of(502, body).to_string(), "the server answers with status 502");
        }
    }
}
