//! Every setting, its default and its validation: flags over environment over file.
