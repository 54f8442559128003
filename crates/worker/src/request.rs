//! A request on its way through the worker, and its answer.

use embedring_ipc::{Incoming, ReplyLoan, RingError};
use embedring_model::finish_row;
use embedring_protocol::{
    Class, ResponseHeader, ResponseWriter, RowFlags, RowMeta, Status, TextFault, response_bytes,
};

/// A request whose texts wait or run. Its tokens are a flat list with offsets, like a batch's.
pub(crate) struct Request {
    incoming: Incoming,
    /// Response slot, loaned when the first row is there, so that rows are written where they stay.
    loan: Option<ReplyLoan>,
    pub(crate) id: u64,
    pub(crate) client: usize,
    pub(crate) class: Class,
    pub(crate) deadline_ns: u64,
    pub(crate) sent_ns: u64,
    pub(crate) arrived_ns: u64,
    pub(crate) dimensions: usize,
    pub(crate) normalize: bool,
    pub(crate) ids: Vec<u32>,
    /// Where the ids of each text end.
    pub(crate) offsets: Vec<usize>,
    pub(crate) metas: Vec<RowMeta>,
    /// Rows still to come.
    pub(crate) open_rows: usize,
    /// The first row that has not been in a batch yet.
    next_row: usize,
    /// Texts, tokens and squared tokens from there on.
    pub(crate) waiting_texts: u64,
    pub(crate) waiting_tokens: u64,
    pub(crate) waiting_squares: u64,
    /// Tokens that its client had waiting when it came, times the clients that had.
    pub(crate) backlog_tokens: u64,
    pub(crate) timing: Timing,
}

/// What a response says about how it went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    pub(crate) started_ns: u64,
    pub(crate) tokenize_ns: u64,
    pub(crate) run_ns: u64,
    pub(crate) batch: u64,
    pub(crate) batch_texts: u32,
    pub(crate) batch_tokens: u32,
}

impl Request {
    pub(crate) fn new(incoming: Incoming, id: u64) -> Self {
        Self {
            incoming,
            loan: None,
            id,
            client: usize::MAX,
            class: Class::Interactive,
            deadline_ns: 0,
            sent_ns: 0,
            arrived_ns: 0,
            dimensions: 0,
            normalize: true,
            ids: Vec::with_capacity(64),
            offsets: Vec::with_capacity(8),
            metas: Vec::with_capacity(8),
            open_rows: 0,
            next_row: 0,
            waiting_texts: 0,
            waiting_tokens: 0,
            waiting_squares: 0,
            backlog_tokens: 0,
            timing: Timing::default(),
        }
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.incoming.is_abandoned()
    }

    /// All texts without a fault wait from now on.
    pub(crate) fn begin_to_wait(&mut self) {
        self.next_row = 0;
        let good = self
            .metas
            .iter()
            .filter(|meta| meta.flags().fault_of().is_none());
        (
            self.waiting_texts,
            self.waiting_tokens,
            self.waiting_squares,
        ) = (0, 0, 0);
        for tokens in good.map(|meta| u64::from(meta.tokens)) {
            self.waiting_texts += 1;
            self.waiting_tokens += tokens;
            self.waiting_squares += tokens * tokens;
        }
    }

    /// The next row to run and its tokens, if any wait.
    pub(crate) fn next_waiting(&mut self) -> Option<(usize, u64)> {
        if self.waiting_texts == 0 {
            return None;
        }
        while self.metas[self.next_row].flags().fault_of().is_some() {
            self.next_row += 1;
        }
        Some((self.next_row, u64::from(self.metas[self.next_row].tokens)))
    }

    /// The row that `next_waiting` named is in a batch.
    pub(crate) fn take_next(&mut self, tokens: u64) {
        self.next_row += 1;
        self.waiting_texts -= 1;
        self.waiting_tokens -= tokens;
        self.waiting_squares -= tokens * tokens;
    }

    pub(crate) fn row_ids(&self, row: usize) -> &[u32] {
        let start = if row == 0 { 0 } else { self.offsets[row - 1] };
        &self.ids[start..self.offsets[row]]
    }

    /// Writes one row into the response slot. A row that is not finite is a fault of its text.
    pub(crate) fn write_row(&mut self, row: usize, pooled: &[f32]) -> Result<(), RingError> {
        let rows = self.metas.len();
        let dimensions = self.dimensions;
        let loan = match self.loan.take() {
            Some(loan) => loan,
            None => self.incoming.reply(response_bytes(rows, dimensions))?,
        };
        let loan = self.loan.insert(loan);
        let mut writer = ResponseWriter::new(loan.bytes_mut(), rows, dimensions)
            .ok_or_else(|| RingError::Failed("a response slot is not aligned".to_owned()))?;
        if finish_row(pooled, self.normalize, writer.row_mut(row)).is_err() {
            self.metas[row] =
                RowMeta::new(self.metas[row].tokens, RowFlags::fault(TextFault::BadRow));
        }
        self.open_rows -= 1;
        Ok(())
    }

    /// Sends the rows.
    pub(crate) fn answer(mut self, mut head: ResponseHeader) -> Result<(), RingError> {
        let rows = self.metas.len();
        let mut loan = match self.loan.take() {
            Some(loan) => loan,
            None => self.incoming.reply(response_bytes(rows, self.dimensions))?,
        };
        let writer = ResponseWriter::new(loan.bytes_mut(), rows, self.dimensions)
            .ok_or_else(|| RingError::Failed("a response slot is not aligned".to_owned()))?;
        head.id = self.id;
        head.queue_ns = self.timing.started_ns.saturating_sub(self.arrived_ns);
        head.tokenize_ns = self.timing.tokenize_ns;
        head.run_ns = self.timing.run_ns;
        head.batch = self.timing.batch;
        head.batch_texts = self.timing.batch_texts;
        head.batch_tokens = self.timing.batch_tokens;
        writer.finish(head, &self.metas);
        loan.send()
    }

    /// Sends a status without rows. A half-written slot goes back first, since a request may have
    /// one slot at a time.
    pub(crate) fn refuse(mut self, mut head: ResponseHeader) -> Result<(), RingError> {
        debug_assert_ne!(head.status(), Status::Ok, "an answer has rows");
        drop(self.loan.take());
        head.id = self.id;
        let mut loan = self.incoming.reply(response_bytes(0, 0))?;
        if let Some(writer) = ResponseWriter::new(loan.bytes_mut(), 0, 0) {
            writer.finish(head, &[]);
        }
        loan.send()
    }
}
