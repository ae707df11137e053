//! Claim, admit, renew, settle: carries predictions from the store through the engine, one worker per device.
