//! The integration tests, by subject: the whole binary, real scripts, real files, real clients. They are one crate, so that it is
//! linked once.

#[path = "../support/chromium.rs"]
mod chromium;
mod fake_server;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/webdriver.rs"]
mod webdriver;

mod api {
    mod again;
    mod answers;
    mod contract;
    mod events;
    mod figures;
    mod history;
    mod idempotency;
    mod kept_env;
    mod log;
    mod log_parts;
    mod log_search;
    mod log_text;
    mod old_client;
    mod progress;
    mod races;
    mod refusals;
    mod scripts;
    mod usage;
}
mod browser {
    mod budget;
    mod controls;
    mod flood;
    mod foreign_reads;
    mod freezing;
    mod hand;
    mod hostile_page;
    mod hostile_text;
    mod jacking;
    mod live_log;
    mod log_lines;
    mod log_page;
    mod login;
    mod looks;
    mod neighbour;
    mod new_user;
    mod notice;
    mod old_client;
    mod page;
    mod pairing;
    mod preferences;
    mod progress;
    mod runs_rail;
    mod scenes;
    mod sharing;
    mod sizes;
    mod slow_network;
    mod start_again;
    mod start_form;
    mod state;
    mod steps;
    mod two_pages;
    mod usage;
    mod which_server;
}
mod cli {
    mod client;
    mod command;
    mod commands;
    mod follow;
    mod hidden_places;
    mod hostile_server;
    mod identity;
    mod known_server;
    mod logs;
    mod pair;
    mod relay;
    mod terminal;
    mod unverified_server;
}
mod http {
    mod listeners;
    mod local_guesses;
    mod packed;
    mod page_security;
    mod pairing;
    mod proof;
    pub(crate) mod reading;
    mod rouille_faults;
    mod sessions;
    mod system_calls;
    mod tokens;
    mod transport;
    mod trust;
}
mod recovery {
    mod boot;
    mod database;
    mod server;
    mod shim;
    mod upgrade;
}
mod rules {
    mod api;
    mod architecture;
    mod builder_paths;
    mod docs;
    mod prose;
    mod unit;
}
mod run {
    mod containment;
    mod demo;
    mod environment;
    mod killed_test;
    mod left_behind;
    mod lifecycle;
    mod million;
    mod odd_names;
    mod odd_starts;
    mod origin;
    mod output;
    mod outside;
    mod scripts;
    mod second_stop;
    mod tree;
}
mod server {
    mod containers;
    mod few_descriptors;
    mod files;
    mod foreign_files;
    mod foreign_groups;
    mod foreign_links;
    mod foreign_memory;
    mod foreign_namespaces;
    mod foreign_owners;
    mod foreign_places;
    mod foreign_runs;
    mod foreign_secrets;
    mod foreign_sockets;
    mod forged_journals;
    mod forged_lines;
    mod hardening;
    mod held_locks;
    mod hostile_database;
    mod inherited_socket;
    mod long_bodies;
    mod proc_of_others;
    mod process_limit;
    mod program;
    mod siege;
    mod starved;
    mod undated_secrets;
}
mod storage {
    mod directories;
    mod disk;
    mod disk_control;
    mod file_size_limit;
    mod full_disk;
    mod io_errors;
    mod odd_files;
    mod removed;
    mod retention;
}
