//! A server that takes Sentry's reports (bugsink, which `make` installs), on this machine: hosts reach it at their gateway.

use super::wait_for;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The server, and what it keeps.
pub struct Bugsink {
    directory: PathBuf,
    address: String,
    /// Where reports go.
    pub dsn: String,
    running: Option<Child>,
}

/// Makes its database and a project; prints the project's DSN.
const PREPARE: &str = "set -e; bugsink-create-conf --template=local --port \"$PORT\" --host \"$ADDRESS\" > /dev/null
    sed -i 's/^BUGSINK = {/BUGSINK = {\\n    \"PHONEHOME\": False,/' bugsink_conf.py
    bugsink-manage migrate > migrate.log 2>&1; bugsink-manage migrate --database=snappea >> migrate.log 2>&1
    python - <<'P'
import os, django
os.environ['DJANGO_SETTINGS_MODULE'] = 'bugsink_conf'; django.setup()
from projects.models import Project
from teams.models import Team
print(Project.objects.create(name='appliance', team=Team.objects.create(name='team')).dsn)
P";

/// One line for each report: its identifier and what it says.
const REPORTS: &str = "python - <<'P'
import os, django, json
os.environ['DJANGO_SETTINGS_MODULE'] = 'bugsink_conf'; django.setup()
from events.models import Event
for event in Event.objects.order_by('digest_order'):
    data = event.get_parsed_data()
    message = data.get('message') or (data.get('logentry') or {}).get('message') or ''
    tags = data.get('tags') or {}
    tags = dict(tags) if isinstance(tags, list) else tags
    print(json.dumps({'id': event.event_id.hex, 'message': message, 'alert': tags.get('alert')}))
P";

impl Bugsink {
    /// A new one, at an address of this machine; it does not run yet.
    pub fn new(address: &str) -> Bugsink {
        let directory = PathBuf::from(format!("/var/tmp/appliance-test/bugsink-{}", std::process::id()));
        drop(fs::remove_dir_all(&directory));
        fs::create_dir_all(&directory).expect("its directory can be made");
        let mut bugsink = Bugsink { directory, address: address.to_owned(), dsn: String::new(), running: None };
        let said = bugsink.python(PREPARE);
        bugsink.dsn = said.lines().last().expect("it prints the DSN").to_owned();
        bugsink
    }

    fn command(&self, script: &str) -> Command {
        let tools = format!("{}/target/tools/bugsink/bin", env!("CARGO_MANIFEST_DIR"));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(&self.directory).stdin(Stdio::null());
        command.env("PATH", format!("{tools}:{path}")).env("PYTHONPATH", &self.directory);
        command.env("ADDRESS", &self.address).env("PORT", PORT);
        command
    }

    fn python(&self, script: &str) -> String {
        let done = self.command(script).output().expect("a shell can be run");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "bugsink: {said} (make tools installs it)");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    pub fn start(&mut self) {
        let script = "exec gunicorn --bind \"$ADDRESS:$PORT\" --workers 1 --threads 4 bugsink.wsgi > gunicorn.log 2>&1";
        self.running = Some(self.command(script).spawn().expect("a shell can be run"));
        let health = format!("http://{}:{PORT}/health/ready", self.address);
        wait_for("bugsink", Duration::from_secs(60), || {
            let out = Command::new("curl")
                .args(["-s", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}", &health])
                .output();
            let said = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
            if said.starts_with('2') { Ok(()) } else { Err(said) }
        });
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            // gunicorn ends its workers.
            drop(Command::new("kill").arg(child.id().to_string()).status());
            drop(child.wait());
        }
    }

    /// What was reported: identifier, message, and the alert that it is about.
    pub fn reports(&self) -> Vec<serde_json::Value> {
        let said = self.python(REPORTS);
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
    }
}

const PORT: &str = "18100";

impl Drop for Bugsink {
    fn drop(&mut self) {
        self.stop();
        drop(fs::remove_dir_all(&self.directory));
    }
}
