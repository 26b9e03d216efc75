//! Every kernel against its reference.

use harmonium_cuda::{Device, check};

#[test]
fn kernels_agree_with_their_references() {
    let device = Device::host().unwrap();
    for case in check::all() {
        let report = case.run(&device).unwrap_or_else(|error| panic!("{}: {error}", case.name()));
        assert!(report.is_right(), "{}: {report:?}", case.name());
    }
}
