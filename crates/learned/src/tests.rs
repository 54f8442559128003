//! One suite for every library of this build.

use super::*;

/// Rows of three numbers of which only the first says anything: a step, and a slope after it.
fn example() -> (Vec<f32>, Vec<f32>) {
    let mut flat = Vec::new();
    let mut targets = Vec::new();
    for row in 0..600_u16 {
        let x = f32::from(row) / 100.0;
        flat.extend([x, f32::from(row * 7 % 13), f32::from(row * 31 % 97)]);
        targets.push(if x < 3.0 { 0.5 } else { 1.0 + (x - 3.0) * 0.2 });
    }
    (flat, targets)
}

fn libraries() -> Vec<&'static dyn Library> {
    Kind::ALL
        .into_iter()
        .filter_map(|kind| kind.library().ok())
        .collect()
}

#[test]
fn a_library_that_is_not_there_is_named() {
    for kind in Kind::ALL {
        let built = match kind {
            Kind::LightGbm => cfg!(feature = "lightgbm"),
            Kind::XgBoost => cfg!(feature = "xgboost"),
        };
        match kind.library() {
            Ok(library) => assert!(built, "{library:?}"),
            Err(error) => {
                assert!(!built);
                assert!(error.to_string().contains(kind.name()), "{error}");
            }
        }
    }
}

#[test]
fn only_whole_rows_of_numbers_are_rows() {
    assert_eq!(Rows::new(&[1.0; 6], 3).unwrap().len(), 2);
    assert!(Rows::new(&[1.0; 7], 3).is_none());
    assert!(Rows::new(&[1.0], 0).is_none());
    assert!(Rows::new(&[f32::NAN], 1).is_none());
}

#[test]
fn what_is_there_is_learned_and_noise_columns_do_not_matter() {
    let (flat, targets) = example();
    let rows = Rows::new(&flat, 3).unwrap();
    for library in libraries() {
        let model = library.train(rows, &targets).unwrap();
        let asked = [1.0, 3.0, 9.0, 2.0, 11.0, 90.0, 5.0, 3.0, 9.0];
        let found = model.predict(Rows::new(&asked, 3).unwrap()).unwrap();
        for (found, expected) in found.iter().zip([0.5, 0.5, 1.4]) {
            assert!((found - expected).abs() < 0.1, "{library:?}: {found}");
        }
    }
}

#[test]
fn a_model_is_the_same_after_saving_and_after_learning_again() {
    let (flat, targets) = example();
    let rows = Rows::new(&flat, 3).unwrap();
    for library in libraries() {
        let model = library.train(rows, &targets).unwrap();
        let found = model.predict(rows).unwrap();
        let loaded = library.load(&model.save().unwrap()).unwrap();
        assert_eq!(loaded.predict(rows).unwrap(), found, "{library:?}");
        let again = library.train(rows, &targets).unwrap();
        assert_eq!(again.predict(rows).unwrap(), found, "{library:?}");
    }
}

#[test]
fn what_can_not_be_is_an_error_and_no_crash() {
    let (flat, targets) = example();
    let rows = Rows::new(&flat, 3).unwrap();
    let none = Rows::new(&[], 3).unwrap();
    for library in libraries() {
        assert!(library.train(none, &[]).is_err(), "{library:?}");
        assert!(library.train(rows, &targets[1..]).is_err(), "{library:?}");
        let nan = vec![f32::NAN; targets.len()];
        assert!(library.train(rows, &nan).is_err(), "{library:?}");
        // Few rows give the mean, not an error.
        let few = library
            .train(Rows::new(&flat[..9], 3).unwrap(), &[2.0; 3])
            .unwrap();
        let found = few.predict(Rows::new(&flat[..3], 3).unwrap()).unwrap();
        assert!((found[0] - 2.0).abs() < 1e-3, "{library:?}: {found:?}");
        let model = library.train(rows, &targets).unwrap();
        assert!(model.predict(Rows::new(&flat, 2).unwrap()).is_err());
        assert_eq!(model.predict(none).unwrap(), Vec::<f32>::new());
        for bytes in [&b""[..], b"tree", b"\0\0\0\0", b"something else", &[0; 64]] {
            assert!(library.load(bytes).is_err(), "{library:?}: {bytes:?}");
        }
        let saved = model.save().unwrap();
        for at in (0..saved.len()).step_by(97) {
            assert!(library.load(&saved[..at]).is_err(), "{library:?}");
            let mut damaged = saved.clone();
            damaged[at] ^= 1;
            assert!(library.load(&damaged).is_err(), "{library:?}: byte {at}");
        }
    }
}
