use super::{Client, ClientError};
use crate::events::Record;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Response};

/// A longer line is not one of ours.
const MAX_LINE: usize = 64 << 10;

impl Client {
    /// Gives `each` the events after number `since`, and then those that happen, until the machine ends or `each` says false,
    /// however long that takes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn follow(&self, since: u64, mut each: impl FnMut(Record) -> bool) -> Result<(), ClientError> {
        let path = format!("/v1/vm/events?since={since}&follow=true");
        self.blocking(self.exchange(Method::GET, path, Vec::new(), async |answer| {
            let status = answer.status();
            if !status.is_success() {
                let body = Limited::new(answer.into_body(), MAX_LINE).collect().await;
                return self.read(status, &body.map_err(|e| self.protocol(&e))?.to_bytes());
            }
            self.lines(answer, &mut each).await
        }))
    }

    async fn lines(
        &self,
        answer: Response<Incoming>,
        each: &mut impl FnMut(Record) -> bool,
    ) -> Result<(), ClientError> {
        let mut body = answer.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| self.protocol(&e))?;
            rest.extend(frame.into_data().unwrap_or_default());
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                // An empty one says that nothing has happened.
                if line.len() > 1 && !each(serde_json::from_slice(&line).map_err(|e| self.protocol(&e))?) {
                    return Ok(());
                }
            }
            if rest.len() > MAX_LINE {
                return Err(self.protocol(&"a line of the events has no end"));
            }
        }
        Ok(())
    }
}
