//! What the cuda device promises beside the numbers, which `truth` holds it to. Without a GPU these say that they were skipped, unless `REQUIRE_CUDA`
//! is set.
#![cfg(feature = "cuda")]

#[path = "support/devices.rs"]
mod devices;
#[path = "support/optimizers.rs"]
mod optimizers;
#[path = "support/process.rs"]
mod process;
#[path = "support/promises.rs"]
mod promises;

use process::{command, in_child};
use std::path::Path;
use wholestep::Device;

/// The first device, if there is one.
fn device() -> Option<Device> {
    devices::gpu("cuda", "REQUIRE_CUDA")
}

#[test]
fn nothing_is_made_or_read_after_the_first_step_and_each_call_is_one_submission() {
    if let Some(device) = device() {
        promises::nothing_is_made_or_read_after_the_first_step_and_each_call_is_one_submission(&device);
    }
}

#[test]
fn no_optimizer_makes_or_reads_anything_after_its_first_step() {
    if let Some(device) = device() {
        promises::no_optimizer_makes_or_reads_anything_after_its_first_step(&device);
    }
}

#[test]
fn ten_thousand_steps_take_no_more_memory_than_a_thousand() {
    const NAME: &str = "ten_thousand_steps_take_no_more_memory_than_a_thousand";
    let Some(device) = device() else { return };
    if in_child("flat").is_some() {
        return promises::ten_thousand_steps_take_no_more_memory_than_a_thousand(&device);
    }
    let output = command(NAME, "flat", Path::new(".")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn it_learns_and_the_same_seed_gives_the_same_bits() {
    if let Some(device) = device() {
        promises::it_learns_and_the_same_seed_gives_the_same_bits(&device);
    }
}

#[test]
fn several_steps_in_one_submission_give_the_bits_of_single_steps() {
    if let Some(device) = device() {
        promises::several_steps_in_one_submission_give_the_bits_of_single_steps(&device);
    }
}

#[test]
fn a_larger_batch_grows_the_arena_and_keeps_the_weights() {
    if let Some(device) = device() {
        promises::a_larger_batch_grows_the_arena_and_keeps_the_weights(&device);
    }
}

#[test]
fn steps_of_one_submission_take_their_own_inputs_and_outputs_are_those_of_the_last() {
    if let Some(device) = device() {
        promises::steps_of_one_submission_take_their_own_inputs_and_outputs_are_those_of_the_last(&device);
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error_that_says_how_many_are() {
    let Some(_) = device() else { return };
    let message = Device::named("cuda:99").unwrap_err().to_string();
    assert!(message.contains("there is no device cuda:99; this machine has "), "{message}");
}

#[test]
fn a_machine_without_a_driver_says_what_to_install() {
    const NAME: &str = "a_machine_without_a_driver_says_what_to_install";
    if in_child("none").is_some() {
        match Device::cuda(0) {
            Ok(device) => println!("opened {device:?}"),
            Err(e) => println!("refused: {e}"),
        }
        return;
    }
    // No device is to be seen where there is a driver.
    let output = command(NAME, "none", Path::new(".")).env("CUDA_VISIBLE_DEVICES", "").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected =
        ["refused: no NVIDIA driver was found (", "refused: the NVIDIA driver does not start: CUDA_ERROR_NO_DEVICE"];
    assert!(expected.iter().any(|e| text.contains(e)), "{text}");
}

#[test]
fn many_shapes_share_launches_and_agree_with_the_cpu() {
    if let Some(device) = device() {
        promises::many_shapes_share_launches_and_agree_with_the_cpu(&device);
    }
}
