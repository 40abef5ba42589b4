//! What stands before the app, from outside: which names are answered, what reaches the app and what does not, large and lasting
//! requests, compression, the page for machines, stapling; judged by gixy, nmap and testssl.sh.

use crate::host::acme::stop;
use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::process::Command;
use std::time::Duration;

/// A program of this machine, its output together.
fn run(program: &str, args: &[&str]) -> (i32, String) {
    let out = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error} (make installs it)"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (out.status.code().unwrap_or(-1), text)
}

fn shell(script: &str) -> (i32, String) {
    run("bash", &["-c", script])
}

/// What the app saw of a request: its headers, in order.
fn seen(machine: &Machine, more: &[&str]) -> Vec<(String, String)> {
    let url = format!("https://{}/x", machine.address());
    let mut args = vec![url.as_str()];
    args.extend(more);
    let (code, body) = curl(machine, &args);
    assert_eq!(code, 200, "{body}");
    let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("not JSON: {body}"));
    let pairs = value["headers"].as_array().expect("a list").iter();
    pairs.map(|pair| (pair[0].as_str().unwrap_or("").to_owned(), pair[1].as_str().unwrap_or("").to_owned())).collect()
}

fn all<'a>(headers: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn what_reaches_the_app_is_what_nginx_says() {
    let machine = Machine::boot("front");
    let at = machine.address();
    install_certificate(&machine);
    start_mirror(
        &machine,
        "  ssl:\n    letsencrypt: {enabled: no}\n    key: /root/pki/host.key\n    cert: /root/pki/chain.pem\n",
    );
    let resolve = format!("{DOMAIN}:443:{at}");

    let responder = machine.spawn("cd /root/pki && exec openssl ocsp -port 8888 -index index.txt -CA mid.pem -rsigner mid.pem -rkey mid.key > ocsp.log 2>&1");

    // Everything that an app might believe about a client is set or removed, however the client writes it.
    let us = format!("10.77.{}.1", at.split('.').nth(2).expect("an address"));
    let lies = [
        ("X-Real-IP", Some(us.as_str())),
        ("X-Forwarded-For", Some(us.as_str())),
        ("X-Forwarded-Proto", Some("https")),
        ("X-Forwarded-Port", Some("443")),
        ("X-Ssl-Client-Verify", Some("NONE")),
        ("X-Ssl-Client-Serial", None),
        ("X-Forwarded-Host", None),
        ("X-Forwarded-Server", None),
        ("X-Forwarded-Ssl", None),
        ("Forwarded", None),
        ("Proxy", None),
        // Another protocol would be a tunnel past all of this.
        ("Upgrade", None),
    ];
    for (name, truth) in lies {
        for form in [name.to_owned(), name.to_uppercase(), name.replace('-', "_")] {
            let headers = seen(&machine, &["-H", &format!("{form}: 6.6.6.6"), "-H", &format!("{form}: SUCCESS")]);
            let values = all(&headers, &name.to_lowercase());
            assert_eq!(values, truth.into_iter().collect::<Vec<_>>(), "{form}");
            assert!(
                !headers.iter().any(|(_, value)| value.contains("6.6.6.6") || value == "SUCCESS"),
                "{form}: {headers:?}"
            );
        }
    }
    // The name in the request line counts, and that is what the app is told too.
    let (_, text) = shell(&format!(
        "printf 'GET https://{DOMAIN}/x HTTP/1.1\\r\\nHost: evil.example\\r\\nConnection: close\\r\\n\\r\\n' | openssl s_client -quiet -connect {at}:443 -servername {DOMAIN} 2>/dev/null"
    ));
    assert!(text.contains(&format!("[\"host\", \"{DOMAIN}\"]")) && !text.contains("evil"), "{text}");

    // Names: ours over http lead to https, others get no answer at all.
    let (code, _) = curl(&machine, &["--head", &format!("http://{at}/a?b=c")]);
    assert_eq!(code, 301);
    let (_, head) = shell(&format!("curl -s -o /dev/null -D - -H 'Host: {DOMAIN}' 'http://{at}/a?b=c'"));
    assert!(head.contains(&format!("Location: https://{DOMAIN}/a?b=c")), "{head}");
    for (url, host) in [(format!("http://{at}/"), "evil.example"), (format!("https://{at}/"), "evil.example")] {
        let (code, text) = shell(&format!("curl -sk -m 10 -H 'Host: {host}' {url}; echo \" exit $?\""));
        assert!(code == 0 && (text.contains("exit 52") || text.contains("exit 92")), "{url}: {text}");
    }

    // Headers of answers, and HTTP/2.
    let (_, head) = shell(&format!("curl -sk --http2 -o /dev/null -D - --resolve {resolve} https://{DOMAIN}/"));
    assert!(head.starts_with("HTTP/2 200") && head.contains("strict-transport-security: max-age=63072000"), "{head}");
    assert!(!head.to_lowercase().contains("nginx/"), "its version is nobody's business: {head}");

    // Compression, where it is asked for and worth it.
    let size = |more: &str| -> u64 {
        let (_, text) = shell(&format!("curl -sk {more} -o /dev/null -w '%{{size_download}}' https://{at}/long"));
        text.trim().parse().unwrap_or_else(|_| panic!("{text}"))
    };
    let (plain, packed) = (size(""), size("-H 'Accept-Encoding: gzip'"));
    assert!(plain == 340_000 && packed < plain / 20, "{plain} {packed}");

    // An upload larger than nginx's disk may hold goes straight through: the app sees its beginning while the client still sends.
    machine.ok("mount -t tmpfs -o size=1m tmpfs /var/lib/nginx/body");
    let (_, text) = shell(&format!("head -c 256M /dev/zero | curl -sk -m 400 -T - https://{at}/upload"));
    assert!(text.contains("{\"bytes\": 268435456}"), "{text}");
    let seen = tempfile::tempdir().expect("a directory can be made");
    let flag = seen.path().join("seen");
    let slow = Command::new("bash")
        .args(["-c", &format!("(head -c 300000 /dev/zero; until [ -e {} ]; do sleep 0.1; done; head -c 100 /dev/zero) | curl -sk -H 'Content-Length: 300100' -X POST -T - https://{at}/upload", flag.display())])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("bash can be run");
    wait_for("the upload's beginning", Duration::from_secs(20), || {
        let (_, body) = get(&machine, "/first");
        if body.contains("300000") { Ok(()) } else { Err(body) }
    });
    std::fs::write(&flag, "").expect("the flag can be raised");
    let out = slow.wait_with_output().expect("it ends");
    assert!(String::from_utf8_lossy(&out.stdout).contains("300100"), "{out:?}");

    // WebSockets, over TLS.
    let frame = "\\x81\\x85\\x01\\x02\\x03\\x04\\x69\\x67\\x6f\\x68\\x6e";
    let (_, text) = shell(&format!(
        "(printf 'GET /ws HTTP/1.1\\r\\nHost: {DOMAIN}\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n'; sleep 1; printf '{frame}'; sleep 2) \
         | timeout 20 openssl s_client -quiet -connect {at}:443 -servername {DOMAIN} 2>/dev/null | tr -d '\\0'"
    ));
    assert!(
        text.contains("101 Switching Protocols")
            && text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            && text.contains("HELLO"),
        "{text}"
    );

    // Slower than a minute is not too slow; an app that is unwell speaks for itself.
    let (code, body) = shell(&format!("curl -sk -m 100 https://{at}/slow?65"));
    assert!(code == 0 && body == "\"late\"", "{body}");
    let (code, body) = get(&machine, "/unwell");
    assert_eq!((code, body.as_str()), (503, "\"unwell\""));

    // The page is there for people and machines; which, the client says.
    machine.ok("echo '<main>page</main>' > /var/www/html/503.html; echo '{\"phase\": \"x\"}' > /var/www/html/503.json");
    for (accept, kind) in [
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("application/json", "application/json"),
        ("application/problem+json", "application/json"),
        ("text/html, application/json", "text/html"),
        ("*/*", "text/html"),
        ("", "text/html"),
    ] {
        for method in ["GET", "POST"] {
            let (_, head) = shell(&format!(
                "curl -sk --http1.1 -X {method} -H 'Accept: {accept}' -o /dev/null -D - https://{at}/any/where"
            ));
            assert!(head.starts_with("HTTP/1.1 503"), "{accept}: {head}");
            for wanted in [
                format!("Content-Type: {kind}").as_str(),
                "Retry-After: 5",
                "Cache-Control: no-store",
                "Vary: Accept",
                "Strict-Transport-Security",
            ] {
                assert!(head.contains(wanted), "{accept}: no {wanted}: {head}");
            }
        }
    }
    machine.ok("rm /var/www/html/503.*");
    // A container that is gone: the same, with a page of its own.
    let docker = machine.ok("docker ps -q | head -n 1");
    machine.ok(&format!("docker pause {}", docker.trim()));
    machine.ok("iptables -I OUTPUT -p tcp --dport 5000 -j REJECT");
    let (_, text) = shell(&format!("curl -sk -H 'Accept: application/json' -w ' %{{http_code}}' https://{at}/"));
    assert!(text.contains("\"phase\": \"unavailable\"") && text.ends_with(" 503"), "{text}");
    machine.ok(&format!("iptables -D OUTPUT -p tcp --dport 5000 -j REJECT; docker unpause {}", docker.trim()));

    // Stapled: the authority's own word on the certificate comes along, once nginx has fetched it.
    wait_for("a stapled answer", Duration::from_secs(30), || {
        let (_, text) =
            shell(&format!("echo | openssl s_client -connect {at}:443 -servername {DOMAIN} -status 2>/dev/null"));
        if text.contains("OCSP Response Status: successful") && text.contains("Cert Status: good") {
            Ok(())
        } else {
            Err(text)
        }
    });
    stop(responder);
    judged_by_tools(&machine);
}

/// A certificate of one's own, from an authority of three, with an OCSP responder.
fn install_certificate(machine: &Machine) {
    machine.ok(&format!(
        "mkdir -p /root/pki && cd /root/pki
         openssl req -x509 -newkey rsa:2048 -nodes -days 900 -keyout root.key -out root.pem -subj /CN=Root -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
         openssl req -newkey rsa:2048 -nodes -keyout mid.key -out mid.csr -subj /CN=Middle 2>/dev/null
         printf 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n' > mid.ext
         openssl x509 -req -in mid.csr -CA root.pem -CAkey root.key -days 800 -extfile mid.ext -out mid.pem 2>/dev/null
         openssl req -newkey rsa:2048 -nodes -keyout host.key -out host.csr -subj /CN={DOMAIN} 2>/dev/null
         printf 'basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:{DOMAIN},IP:{}\nauthorityInfoAccess=OCSP;URI:http://127.0.0.1:8888\n' > host.ext
         openssl x509 -req -in host.csr -CA mid.pem -CAkey mid.key -days 300 -set_serial 0x7f31a5c09be2d4416a8bf3 -extfile host.ext -out host.pem 2>/dev/null
         cat host.pem mid.pem > chain.pem
         printf 'V\t361231235959Z\t\t7F31A5C09BE2D4416A8BF3\tunknown\t/CN={DOMAIN}\n' > index.txt",
        machine.address()
    ));
}

fn judged_by_tools(machine: &Machine) {
    let at = machine.address();
    // The configuration as a whole, by gixy.
    let directory = std::env::temp_dir().join(format!("appliance-front-{at}"));
    // What an interrupted run left would be added to.
    drop(std::fs::remove_dir_all(&directory));
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    let config = directory.join("nginx.conf");
    machine.fetch_file("/etc/nginx/conf.d/appliance.conf", &directory.join("appliance.conf"));
    std::fs::write(&config, "events {}\nhttp { include appliance.conf; }\n").expect("it can be written");
    let gixy = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/gixy/bin/gixy");
    let (_, text) = run(gixy, &["-f", "json", &config.display().to_string()]);
    let findings: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
    // Known, and looked at: nginx makes these two values itself (a word, a number); nobody is served on the server of unknown names;
    // and the page is not a matter of speed.
    let known = |finding: &serde_json::Value| {
        let has = |key: &str, part: &str| finding[key].as_str().is_some_and(|text| text.contains(part));
        has("plugin", "http_splitting") && (has("reason", "$ssl_client_verify") || has("reason", "$ssl_client_serial"))
            || has("plugin", "hsts_header") && has("config", "server_name _;") && !has("config", "location")
            || has("plugin", "try_files_is_evil_too")
    };
    let bad: Vec<_> = findings.as_array().expect("a list").iter().filter(|finding| !known(finding)).collect();
    assert!(bad.is_empty(), "{bad:#?}");

    // Protocols and ciphers, by nmap.
    let (_, text) = run("nmap", &["-Pn", "-p", "443", "--script", "ssl-enum-ciphers", &at]);
    assert!(text.contains("TLSv1.2") && text.contains("TLSv1.3") && text.contains("least strength: A"), "{text}");
    assert!(!text.contains("TLSv1.0") && !text.contains("TLSv1.1") && !text.contains("SSLv3"), "{text}");

    // Everything, by testssl.sh, which trusts the authority.
    let report = directory.join("testssl.json");
    let root = directory.join("root.pem");
    machine.fetch_file("/root/pki/root.pem", &root);
    let (report_at, root_at) = (report.display().to_string(), root.display().to_string());
    let url = format!("https://{DOMAIN}");
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/testssl");
    run(
        "env",
        &[
            &format!("TESTSSL_INSTALL_DIR={tools}/etc/testssl"),
            &format!("{tools}/usr/bin/testssl"),
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "off",
            "--ip",
            &at,
            "--add-ca",
            &root_at,
            "--jsonfile",
            &report_at,
            &url,
        ],
    );
    let findings: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&report).expect("testssl.sh wrote its report"))
            .expect("it is JSON");
    let findings = findings.as_array().expect("a list of findings");
    let of = |id: &str| {
        findings
            .iter()
            .find(|finding| finding["id"] == id)
            .map_or("", |finding| finding["finding"].as_str().unwrap_or(""))
    };
    assert_eq!(
        of("overall_grade"),
        "A+",
        "{:#?}",
        findings
            .iter()
            .filter(|finding| finding["id"].as_str().is_some_and(|id| id.starts_with("grade") || id.contains("trust")))
            .collect::<Vec<_>>()
    );
    // Which cipher is taken is the client's choice in Mozilla's profile; further headers are the app's; and nobody on the web has
    // heard of this name.
    let known = ["cipher_order", "security_headers", "DNS_CAArecord"];
    let bad: Vec<String> = findings
        .iter()
        .filter(|finding| ["MEDIUM", "HIGH", "CRITICAL"].contains(&finding["severity"].as_str().unwrap_or("")))
        .filter(|finding| !known.iter().any(|known| finding["id"].as_str().unwrap_or("").starts_with(known)))
        .map(ToString::to_string)
        .collect();
    assert!(findings.len() > 100 && bad.is_empty(), "{} findings; {bad:#?}", findings.len());
    std::fs::remove_dir_all(&directory).expect("it can be removed");
}
