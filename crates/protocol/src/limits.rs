//! Every bound that crosses a process, one constant per fact, each with its reason.

/// Version of the messages and of the board. A peer of another version is refused, not guessed at.
pub const PROTOCOL_VERSION: u16 = 1;

/// Workers an instance can have: one per device, and a host with more devices than this is not one
/// host for our purposes. The board and the plan are sized by it.
pub const WORKERS_MAX: usize = 16;

/// Clients an instance can be configured for. The bells are sized by it; the default is lower.
pub const CLIENTS_MAX: usize = 256;

/// Clients an instance admits by default.
pub const CLIENTS_DEFAULT: usize = 64;

/// Requests one client may have in flight at one worker by default: 300 rows of 384, enough to keep a
/// device busy while answers travel. A worker looks at clients × requests returned-slot queues with
/// each answer, so more is not free.
pub const REQUESTS_IN_FLIGHT_DEFAULT: usize = 8;

/// Requests one client may have in flight at one worker at most.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64;

/// Bytes of a request slot by default: a paragraph of 800 bytes 80 times, a question 1,000 times.
pub const REQUEST_SLOT_DEFAULT: usize = 64 * 1024;

/// Smallest request slot: below this the header and one prompt leave no room for a text.
pub const REQUEST_SLOT_MIN: usize = 4 * 1024;

/// Largest slot of either ring: a worker copies a whole request, so this bounds that copy.
pub const SLOT_MAX: usize = 1024 * 1024;

/// Bytes of a response slot by default: 42 rows of 384 f32.
pub const RESPONSE_SLOT_DEFAULT: usize = 64 * 1024;

/// Smallest response slot: one row of [`DIMENSIONS_MAX`] and its header.
pub const RESPONSE_SLOT_MIN: usize = 2048 + DIMENSIONS_MAX * 4;

/// Texts in one request message. A longer list travels as several messages.
pub const TEXTS_PER_REQUEST_MAX: usize = 1024;

/// Bytes of a prompt put before each text.
pub const PROMPT_BYTES_MAX: usize = 2048;

/// Components of a row at most.
pub const DIMENSIONS_MAX: usize = 4096;

/// Bytes of a name (worker, device, model) on the board.
pub const NAME_BYTES: usize = 64;

/// A request's deadline is at most this far in the future, so that a hostile or mistaken value
/// cannot pin a slot for ever.
pub const DEADLINE_MAX_NS: u64 = 24 * 3600 * 1_000_000_000;

const _: () = {
    assert!(CLIENTS_DEFAULT <= CLIENTS_MAX);
    assert!(REQUESTS_IN_FLIGHT_DEFAULT <= REQUESTS_IN_FLIGHT_MAX);
    assert!(REQUEST_SLOT_MIN > PROMPT_BYTES_MAX + 1024);
    assert!(REQUEST_SLOT_DEFAULT >= REQUEST_SLOT_MIN && REQUEST_SLOT_DEFAULT <= SLOT_MAX);
    assert!(RESPONSE_SLOT_DEFAULT >= RESPONSE_SLOT_MIN && RESPONSE_SLOT_DEFAULT <= SLOT_MAX);
};
