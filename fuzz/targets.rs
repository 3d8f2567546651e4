//! Every fuzz target: its name, which is also its corpus's folder, and its
//! entry. The replay of the corpora in the workspace's tests reads this list.

/// Name and entry.
pub(crate) const TARGETS: [(&str, fn(&[u8])); 21] = [
    ("csv_body", nobat_gateway::fuzz::csv_body),
    ("columnar_body", nobat_gateway::fuzz::columnar_body),
    ("native_body", nobat_gateway::fuzz::native_body),
    ("serving_body", nobat_gateway::fuzz::serving_body),
    ("v2_document", nobat_gateway::fuzz::v2_document),
    ("v2_binary", nobat_gateway::fuzz::v2_binary),
    ("grpc_request", nobat_gateway::fuzz::grpc_request),
    ("query", nobat_gateway::fuzz::query),
    ("door", nobat_gateway::fuzz::door),
    ("payload", nobat_core::fuzz::payload),
    ("job_id", nobat_core::fuzz::job_id),
    ("cursor", nobat_queue::fuzz::cursor),
    ("topic", nobat_serving::fuzz::topic),
    ("route", nobat_serving::fuzz::route),
    ("crontab", nobat_scheduler::fuzz::crontab),
    ("config_pbtxt", nobat_worker::fuzz::config_pbtxt),
    ("external_data", nobat_worker::fuzz::external_data),
    ("image", nobat_image::fuzz::image),
    ("image_files", nobat_image::fuzz::image_files),
    ("text", nobat_text::fuzz::text),
    ("text_folder", nobat_text::fuzz::text_folder),
];
