//! A real browser (headless Chromium) that looks at a host's pages, driven over WebDriver.

use super::wait_for;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub struct Browser {
    driver: Child,
    session: String,
}

/// How long one command may take, in seconds.
const COMMAND_S: &str = "60";

fn request(method: &str, url: &str, body: Option<&Value>) -> Result<Value, String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--noproxy", "*", "--max-time", COMMAND_S, "-X", method, url]);
    if let Some(body) = body {
        command.args(["-H", "Content-Type: application/json", "--data-binary", &body.to_string()]);
    }
    let out = command.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let value: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    match value["value"]["error"].as_str() {
        Some(error) => Err(format!("{error}: {}", value["value"]["message"])),
        None => Ok(value["value"].clone()),
    }
}

impl Browser {
    pub fn start() -> Browser {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a port is free")
            .port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver can be run (make installs it)");
        let at = format!("http://127.0.0.1:{port}");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
            "--hide-scrollbars",
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "acceptInsecureCerts": true,
            "goog:chromeOptions": { "args": arguments },
        }}});
        let session = wait_for("the browser", Duration::from_secs(60), || {
            request("POST", &format!("{at}/session"), Some(&wanted))
        });
        let id = session["sessionId"].as_str().expect("a session has an id");
        Browser { driver, session: format!("{at}/session/{id}") }
    }

    fn post(&self, what: &str, body: &Value) -> Value {
        request("POST", &format!("{}/{what}", self.session), Some(body))
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    pub fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// What a script returns.
    pub fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// A command of the browser's own protocol.
    fn own(&self, command: &str, parameters: &Value) -> Value {
        self.post("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// The window, and whether it prefers dark colours.
    pub fn look(&self, width: u32, height: u32, dark: bool) {
        self.own(
            "Emulation.setDeviceMetricsOverride",
            &json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 }),
        );
        let scheme = if dark { "dark" } else { "light" };
        self.own(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
    }

    /// Roles and names as a screen reader gets them.
    pub fn spoken(&self) -> Vec<(String, String)> {
        let tree = self.own("Accessibility.getFullAXTree", &json!({}));
        let nodes = tree["nodes"].as_array().expect("a list of nodes").iter();
        let text = |value: &Value| value["value"].as_str().unwrap_or("").to_owned();
        nodes.filter(|node| node["ignored"] == false).map(|node| (text(&node["role"]), text(&node["name"]))).collect()
    }

    /// Keeps what is seen, as a picture.
    pub fn keep(&self, name: &str) {
        use base64::Engine;
        let picture = request("GET", &format!("{}/screenshot", self.session), None).expect("a picture can be taken");
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(picture.as_str().expect("it is text"))
            .expect("it is base64");
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&directory).expect("the directory can be made");
        std::fs::write(directory.join(format!("{name}.png")), bytes).expect("the picture can be written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver's end would leave the browser behind.
        drop(request("DELETE", &self.session, None));
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}
