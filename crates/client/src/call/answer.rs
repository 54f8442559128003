//! Answers: rows to their places, and reasons to try again or to fail.

use std::sync::Arc;
use std::time::Duration;

use embedring_ipc::Reply;
use embedring_ipc::clock::now_ns;
use embedring_protocol::{
    ModelId, Precision, ResponseHeader, ResponseView, RowMeta, Status, TextFault,
};

use super::part::Refusal;
use super::{Call, Done, FAILURES_MAX, Flight, NO_MEMORY, PAUSE_NS};
use crate::embeddings::{PartInfo, Rows, rows_in};
use crate::error::EmbedError;
use crate::options::{OnOverload, Prompt};

impl<L> Call<L> {
    /// Takes in an answer: rows, or a reason to try again or to fail.
    pub(super) fn answer<S>(
        &mut self,
        flight: Flight,
        reply: Reply,
    ) -> Result<Option<Done>, EmbedError>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let view = ResponseView::parse(reply.bytes()).map_err(|error| {
            tracing::warn!(%error, "an answer could not be read");
            EmbedError::Protocol
        })?;
        let head = *view.header();
        if head.status() != Status::Ok {
            self.refused(&flight, &head)?;
            return Ok(None);
        }
        let fits = view.metas().len() == flight.part.texts.len()
            && head.dimensions as usize == self.dimensions
            && (self.model == ModelId::ANY || head.model == self.model);
        if !fits {
            return Err(misunderstood(&flight, &head));
        }
        learn(&flight, &view);
        let elsewhere = self.for_other_devices(&flight, &view);
        if !self.options.partial {
            let fault = view.metas().iter().enumerate().find_map(|(row, meta)| {
                let index = flight.part.texts[row];
                let fault = meta.flags().fault_of()?;
                (!elsewhere.contains(&index)).then_some(EmbedError::Text { index, fault })
            });
            if let Some(error) = fault {
                return Err(error);
            }
        }
        let done = self.keep::<S>(&flight, reply, &view, &elsewhere);
        if !elsewhere.is_empty() {
            self.send_elsewhere::<S>(&flight, elsewhere);
        }
        Ok(done)
    }

    /// Places of the texts that are too long for this device and may go to another one.
    fn for_other_devices(&self, flight: &Flight, view: &ResponseView) -> Vec<usize> {
        let is_too_long =
            |meta: &RowMeta| meta.flags().fault_of() == Some(TextFault::TooLongForDevice);
        if !view.metas().iter().any(is_too_long) {
            return Vec::new();
        }
        let mut part = flight.part.clone();
        part.avoid(flight.connection.index);
        let is_other = |index| !part.avoids(index);
        if !flight.session.has_worker(self.wanted(), is_other) {
            return Vec::new();
        }
        let texts = part.texts.iter().zip(view.metas());
        texts
            .filter(|(_, meta)| is_too_long(meta))
            .map(|(&place, _)| place)
            .collect()
    }

    fn send_elsewhere<S>(&mut self, flight: &Flight, places: Vec<usize>)
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let texts = self.texts.as_ref();
        let (mut weight, mut heaviest) = (0, 0);
        for &place in &places {
            let text = self.unsent.weight_of(&texts[place]);
            weight += text;
            heaviest = text.max(heaviest);
        }
        let mut part = flight.part.only(places, weight, heaviest);
        part.avoid(flight.connection.index);
        part.not_before_ns = 0;
        self.again.push_back(part);
    }

    /// Keeps a message's rows but for those that come from elsewhere: in the ring when it is the whole
    /// answer, else copied to their places.
    fn keep<S>(
        &mut self,
        flight: &Flight,
        reply: Reply,
        view: &ResponseView,
        elsewhere: &[usize],
    ) -> Option<Done>
    where
        L: AsRef<[S]>,
        S: AsRef<str>,
    {
        let count = self.texts.as_ref().len();
        let offset = view.rows_offset();
        // Ascending and without repetition: as many as the list has are all of it, in order.
        if flight.part.texts.len() == count && elsewhere.is_empty() {
            self.parts.push(part_info(
                flight,
                view.header(),
                Arc::clone(&flight.part.texts),
            ));
            return Some(Done {
                rows: Rows::Ring { reply, offset },
                dimensions: self.dimensions,
                metas: view.metas().to_vec(),
                parts: std::mem::take(&mut self.parts),
            });
        }
        let width = self.dimensions;
        self.rows.resize(count * width, 0.0);
        self.metas.resize(count, RowMeta::default());
        let rows = rows_in(reply.bytes(), offset).chunks_exact(width.max(1));
        let mut kept = Vec::with_capacity(flight.part.texts.len());
        for ((&place, row), meta) in flight.part.texts.iter().zip(rows).zip(view.metas()) {
            if !elsewhere.contains(&place) {
                self.rows[place * width..(place + 1) * width].copy_from_slice(row);
                self.metas[place] = *meta;
                kept.push(place);
            }
        }
        self.answered += kept.len();
        if !kept.is_empty() {
            self.parts
                .push(part_info(flight, view.header(), kept.into()));
        }
        if self.answered < count {
            return None;
        }
        self.parts
            .sort_by_key(|part| part.texts.first().copied().unwrap_or(0));
        Some(Done {
            rows: Rows::Owned(std::mem::take(&mut self.rows)),
            dimensions: width,
            metas: std::mem::take(&mut self.metas),
            parts: std::mem::take(&mut self.parts),
        })
    }

    fn refused(&mut self, flight: &Flight, head: &ResponseHeader) -> Result<(), EmbedError> {
        let (index, identity) = (flight.connection.index, &flight.connection.identity);
        if head.status() == Status::Internal {
            flight
                .session
                .health
                .failed(index, identity, flight.sent_ns, now_ns());
        } else {
            flight.session.health.answered(index, identity);
        }
        match head.status() {
            Status::Overloaded => {
                let retry_after_ns = head.retry_after_ns.max(1_000_000);
                self.ask_another(flight, Refusal::NoRoom { retry_after_ns });
                Ok(())
            }
            Status::DeadlineExceeded => {
                self.ask_another(flight, Refusal::Late);
                Ok(())
            }
            Status::ShuttingDown | Status::ModelUnavailable => {
                self.send_later(flight, PAUSE_NS, "its worker is ending");
                Ok(())
            }
            Status::MemoryFull if flight.part.sent < 200 => {
                self.send_later(flight, PAUSE_NS * 5, NO_MEMORY);
                Ok(())
            }
            Status::Internal => self.failed_inside(flight),
            Status::MemoryFull => Err(EmbedError::NoMemory),
            Status::WrongModel => Err(EmbedError::WrongModel {
                wanted: self
                    .options
                    .model
                    .clone()
                    .unwrap_or_else(|| self.model.to_string()),
                served: flight.connection.identity.model.to_text(),
            }),
            Status::UnknownPrompt => Err(EmbedError::UnknownPrompt {
                name: match &self.options.prompt {
                    Prompt::Named(name) => name.clone(),
                    Prompt::Default | Prompt::Text(_) => String::new(),
                },
            }),
            Status::BadDimensions => Err(EmbedError::BadDimensions {
                asked: self.options.dimensions,
                has: head.detail as usize,
            }),
            Status::Ok | Status::BadRequest | Status::TooLarge => Err(misunderstood(flight, head)),
        }
    }

    /// Another worker may take it. That none will is known when all were asked: see `send`.
    fn ask_another(&mut self, flight: &Flight, refusal: Refusal) {
        let mut part = flight.part.clone();
        part.avoid(flight.connection.index);
        part.refusal = refusal;
        self.waiting_for = match refusal {
            Refusal::Late => "the worker predicts to be late",
            Refusal::None | Refusal::NoRoom { .. } => "the workers had no room",
        };
        part.not_before_ns = 0;
        self.again.push_back(part);
    }

    /// A device that fails on a request may be broken, or the request may be what breaks it: it is tried
    /// on another device, or once more where there is none, and a few times at most.
    fn failed_inside(&mut self, flight: &Flight) -> Result<(), EmbedError> {
        let mut part = flight.part.clone();
        part.failures += 1;
        part.avoid(flight.connection.index);
        let is_other = |index| !part.avoids(index);
        let others = flight.session.has_worker(self.wanted(), is_other);
        if part.failures >= FAILURES_MAX || (!others && part.failures >= 2) {
            return Err(EmbedError::Worker);
        }
        if !others {
            part.avoid_nobody();
        }
        self.waiting_for = "the worker failed";
        part.not_before_ns = if others {
            0
        } else {
            now_ns().saturating_add(PAUSE_NS)
        };
        self.again.push_back(part);
        Ok(())
    }

    /// All workers have refused a message for one of these reasons.
    pub(super) fn nobody_takes(&mut self, refusal: Refusal) -> Result<u64, EmbedError> {
        match refusal {
            Refusal::None => Ok(PAUSE_NS),
            Refusal::Late => {
                self.waiting_for = "the worker predicts to be late";
                Err(self.too_late())
            }
            Refusal::NoRoom { retry_after_ns } => {
                self.retry_after_ns = retry_after_ns;
                self.waiting_for = "the workers had no room";
                if self.options.on_overload == OnOverload::Fail {
                    return Err(self.too_late());
                }
                // Half the predicted wait: being early costs a message, being late costs the device.
                Ok((retry_after_ns / 2).clamp(1_000_000, 1_000_000_000))
            }
        }
    }
}

/// What an answer tells about its device and about texts.
fn learn(flight: &Flight, view: &ResponseView) {
    let (session, head, now) = (&flight.session, view.header(), now_ns());
    let (index, identity) = (flight.connection.index, &flight.connection.identity);
    session.health.succeeded(index, identity);
    let metas = view.metas();
    let tokens: u64 = metas.iter().map(|meta| u64::from(meta.tokens)).sum();
    let is_whole = |meta: &RowMeta| {
        let flags = meta.flags();
        flags.fault_of().is_none() && !flags.is_truncated()
    };
    if metas.iter().all(is_whole) {
        session.density.learn(flight.part.weight, tokens);
    }
    // The time is of all batches that held its texts, the tokens are of the last: comparable when one
    // batch held them all.
    let batch_tokens = u64::from(head.batch_tokens);
    if head.batch_texts as usize >= metas.len() && batch_tokens >= tokens && head.run_ns > 0 {
        let batch = (batch_tokens, head.run_ns);
        session
            .health
            .measured(index, identity, flight.cost, batch, now);
    }
}

/// An answer that does not belong to its question. What was wrong with it goes to the log.
fn misunderstood(flight: &Flight, head: &ResponseHeader) -> EmbedError {
    tracing::warn!(
        status = ?head.status(),
        id = head.id,
        wanted_id = flight.id,
        rows = head.row_count,
        dimensions = head.dimensions,
        texts = flight.part.texts.len(),
        sent = flight.part.sent,
        worker = flight.connection.identity.name.to_text(),
        "an answer does not fit its question"
    );
    EmbedError::Protocol
}

fn part_info(flight: &Flight, head: &ResponseHeader, texts: Arc<[usize]>) -> PartInfo {
    let [worker, device, model] = flight.connection.names.clone();
    PartInfo {
        texts,
        worker,
        device,
        model,
        precision: Precision::from_wire(head.precision).unwrap_or(Precision::F32),
        queue: Duration::from_nanos(head.queue_ns),
        tokenize: Duration::from_nanos(head.tokenize_ns),
        run: Duration::from_nanos(head.run_ns),
        round_trip: Duration::from_nanos(now_ns().saturating_sub(flight.sent_ns)),
        batch: head.batch,
        batch_texts: head.batch_texts,
        batch_tokens: head.batch_tokens,
        sent: flight.part.sent,
    }
}
