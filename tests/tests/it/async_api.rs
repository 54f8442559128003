//! The client's futures and its pipelined calls, with no runtime.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use embedring_client::{Client, EmbedError, Embeddings, Options};
use embedring_tests::{Setup, TINY, WATCHDOG, bits, eventually, null_row};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is. It polls only when woken, so a lost wake-up hangs it.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

type Answer<'a> = Result<Embeddings<'a>, EmbedError>;

/// All of several futures, polled together.
struct All<'a, F> {
    futures: Vec<Option<Pin<Box<F>>>>,
    outputs: Vec<Option<Answer<'a>>>,
}

impl<'a, F: Future<Output = Answer<'a>>> All<'a, F> {
    fn new(futures: impl Iterator<Item = F>) -> Self {
        let futures: Vec<_> = futures.map(|future| Some(Box::pin(future))).collect();
        let outputs = futures.iter().map(|_| None).collect();
        Self { futures, outputs }
    }
}

impl<'a, F: Future<Output = Answer<'a>>> Future for All<'a, F> {
    type Output = Vec<Answer<'a>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        for (future, output) in this.futures.iter_mut().zip(&mut this.outputs) {
            if let Some(running) = future
                && let Poll::Ready(answer) = running.as_mut().poll(context)
            {
                *output = Some(answer);
                *future = None;
            }
        }
        if this.futures.iter().any(Option::is_some) {
            return Poll::Pending;
        }
        Poll::Ready(this.outputs.iter_mut().map(|o| o.take().unwrap()).collect())
    }
}

#[test]
fn a_future_gives_the_rows_of_the_blocking_call() {
    let instance = Setup::null().up();
    let client = instance.client();
    let answer = block_on(client.embed_async(&["one", "two"])).unwrap();
    assert_eq!(answer.row(1), null_row("two"));
    let none: [&str; 0] = [];
    let error = block_on(client.embed_async(&none)).unwrap_err();
    assert!(matches!(error, EmbedError::EmptyList));
    // More than one message.
    let texts: Vec<String> = (0..1000).map(|index| format!("text {index}")).collect();
    let answer = block_on(client.embed_async(&texts)).unwrap();
    assert_eq!(answer.row(999), null_row("text 999"));
}

#[test]
fn a_hundred_futures_of_one_client_run_together() {
    let instance = Setup::null_workers(&["a", "b"]).up();
    let client = instance.client();
    let lists: Vec<Vec<String>> = (0..100)
        .map(|list| {
            (0..3)
                .map(|text| format!("list {list} text {text}"))
                .collect()
        })
        .collect();
    let answers = block_on(All::new(lists.iter().map(|list| client.embed_async(list))));
    for (list, answer) in lists.iter().zip(answers) {
        let answer = answer.unwrap();
        for (index, text) in list.iter().enumerate() {
            assert_eq!(bits(answer.row(index)), bits(&null_row(text)));
        }
    }
}

#[test]
fn futures_and_threads_share_a_client() {
    let instance = Setup::null().up();
    let client = instance.client();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let client = client.clone();
            scope.spawn(move || {
                for round in 0..50 {
                    let text = format!("thread {thread} round {round}");
                    let texts = [text.as_str()];
                    let answer = if thread % 2 == 0 {
                        client.embed(&texts).unwrap()
                    } else {
                        block_on(client.embed_async(&texts)).unwrap()
                    };
                    assert_eq!(bits(answer.row(0)), bits(&null_row(&text)));
                }
            });
        }
    });
}

/// A model that takes its time over these.
fn slow_list() -> Vec<String> {
    vec!["a long text about nothing at all ".repeat(100); 200]
}

/// Starts something slow and gives it up: the worker counts it as cancelled and goes on.
#[track_caller]
fn check_cancelled(start_and_drop: impl Fn(&Client)) {
    let instance = Setup::model(TINY).set("WORKERS__CPU__THREADS", "1").up();
    let client = instance.client();
    let expected = client.embed(&["after"]).unwrap().to_vec();
    eventually("a request is counted as cancelled", WATCHDOG, || {
        start_and_drop(&client);
        // Its slots come back: the client can go on.
        let answer = client.embed(&["after"]).unwrap();
        assert_eq!(bits(answer.row(0)), bits(&expected));
        instance.worker("cpu")["cancelled"].as_u64().unwrap() > 0
    });
    eventually("nothing of it waits", WATCHDOG, || {
        instance.worker("cpu")["load_texts"] == 0
    });
}

#[test]
fn a_dropped_future_cancels() {
    check_cancelled(|client| {
        let texts = slow_list();
        let mut future = Box::pin(client.embed_async(&texts));
        let waker = Waker::noop();
        let polled = future.as_mut().poll(&mut Context::from_waker(waker));
        assert!(polled.is_pending());
    });
}

#[test]
fn a_dropped_pending_call_cancels() {
    check_cancelled(|client| {
        drop(client.start(slow_list(), &Options::default()).unwrap());
    });
}

#[test]
fn pipelined_calls_end_in_the_order_of_their_start() {
    let instance = Setup::null().up();
    let client = instance.client();
    let start = |number: usize, options: &Options| {
        let texts: Vec<String> = (0..50).map(|text| format!("{number} {text}")).collect();
        client.start(texts, options).unwrap()
    };
    let options = Options::default();
    // More messages than a client has slots.
    let calls: Vec<_> = (0..40).map(|number| start(number, &options)).collect();
    for (number, mut pending) in calls.into_iter().enumerate() {
        let _done = pending.poll().unwrap();
        let answer = pending.wait().unwrap();
        assert_eq!(answer.len(), 50);
        assert_eq!(answer.row(49), null_row(&format!("{number} 49")));
    }
    // Who waits for the last one first, and never for the others, is told so in time.
    let short = Options {
        timeout: std::time::Duration::from_millis(300),
        ..Options::default()
    };
    let mut calls: Vec<_> = (0..40).map(|number| start(number, &options)).collect();
    let error = start(40, &short).wait().unwrap_err();
    assert!(error.to_string().contains("request slots"), "{error}");
    calls.clear();
    client.embed(&["free again"]).unwrap();
}

#[test]
fn answers_can_be_kept_while_others_are_asked_for() {
    // Rows are borrowed from the ring; a program that keeps them must not starve its own next call.
    let instance = Setup::null().up();
    let client = instance.client();
    let texts: Vec<String> = (0..100).map(|number| format!("kept {number}")).collect();
    let answers: Vec<_> = texts
        .iter()
        .map(|text| client.embed(&[text]).unwrap())
        .collect();
    for (text, answer) in texts.iter().zip(&answers) {
        assert_eq!(bits(answer.row(0)), bits(&null_row(text)));
    }
}
