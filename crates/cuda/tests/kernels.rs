//! Every kernel against its reference.

use harmonium_cuda::{Device, check};

#[test]
fn kernels_agree_with_their_references() {
    let device = Device::host().unwrap();
    let mut wrong = Vec::new();
    for case in check::all() {
        match case.run(&device) {
            Ok(report) if report.is_right() => {}
            Ok(report) => wrong.push(format!("{}: {report:?}", case.name())),
            Err(error) => wrong.push(format!("{}: {error}", case.name())),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
