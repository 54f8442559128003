//! Embeds two sentences and prints how alike they are. Start an instance first: `embedring up`.

#![expect(
    clippy::print_stdout,
    reason = "an example talks to the person who runs it"
)]

use std::error::Error;

use embedring_client::Client;

fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::from_env()?;
    let texts = ["The cat sleeps on the sofa.", "A kitten naps on the couch."];
    let answer = client.embed(&texts)?;
    let cosine: f32 = answer
        .row(0)
        .iter()
        .zip(answer.row(1))
        .map(|(a, b)| a * b)
        .sum();
    println!(
        "{} rows of {} components",
        answer.len(),
        answer.dimensions()
    );
    println!("cosine {cosine:.4}");
    for part in answer.parts() {
        println!(
            "worker {} on {}: queue {:?}, tokenise {:?}, run {:?}, round trip {:?}",
            part.worker, part.device, part.queue, part.tokenize, part.run, part.round_trip,
        );
    }
    Ok(())
}
