//! The scheduler's learning thread, without the thread: what it would do between two plans is done at
//! once, so that runs can be repeated.

use std::time::Instant;

use embedring_learned::{Library, Model, Rows};
use embedring_optimizer::{Planner, Questions, TrainingSet};

/// Plans from one time that models in use are asked about the circumstances of now to the next.
const ASK_EVERY: u64 = 8;

/// Learns and answers.
#[derive(Debug)]
pub(crate) struct Teacher {
    library: &'static dyn Library,
    models: Vec<(u64, Box<dyn Model>)>,
    plans: u64,
    /// Milliseconds of each time something was learned.
    pub(crate) took_ms: Vec<f64>,
}

impl Teacher {
    pub(crate) fn new(library: &'static dyn Library) -> Self {
        Self {
            library,
            models: Vec::new(),
            plans: 0,
            took_ms: Vec::new(),
        }
    }

    /// Learns when it is time to, and refreshes answers.
    pub(crate) fn teach(&mut self, planner: &mut Planner) {
        if let Some((set, questions)) = planner.training() {
            #[expect(clippy::disallowed_methods, reason = "a duration within this function")]
            let begun = Instant::now();
            let rows = Rows::new(&set.rows, TrainingSet::WIDTH);
            let model = rows.and_then(|rows| self.library.train(rows, &set.targets).ok());
            self.took_ms.push(begun.elapsed().as_secs_f64() * 1e3);
            let answers = model.as_deref().map(|model| answers(model, &questions));
            planner.answer(&questions, &answers.unwrap_or_default());
            self.models
                .extend(model.map(|model| (questions.model, model)));
        }
        self.plans += 1;
        if self.plans.is_multiple_of(ASK_EVERY) {
            let asked = planner.questions();
            self.models
                .retain(|(model, _)| asked.iter().any(|questions| questions.model == *model));
            for questions in &asked {
                let model = self.models.iter().find(|(at, _)| *at == questions.model);
                if let Some((_, model)) = model {
                    planner.answer(questions, &answers(&**model, questions));
                }
            }
        }
    }
}

fn answers(model: &dyn Model, questions: &Questions) -> Vec<f32> {
    Rows::new(&questions.rows, TrainingSet::WIDTH)
        .and_then(|rows| model.predict(rows).ok())
        .unwrap_or_default()
}
