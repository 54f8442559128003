use embedring_ipc::*;
fn main() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let i = Instance::create(&InstanceOptions {
        dir: dir.path().into(),
        ..InstanceOptions::new("t")
    })
    .unwrap();
    let l = RingLimits::default();
    let t = clock::now_ns();
    let free = i.free_bytes();
    let w = WorkerRing::create(&i, 5, l).unwrap();
    println!(
        "worker {} us, {} KB touched",
        (clock::now_ns() - t) / 1000,
        (free - i.free_bytes()) / 1024
    );
    let mut v = vec![];
    let kk: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    for k in 0..kk {
        let t = clock::now_ns();
        let free = i.free_bytes();
        let c = ClientRing::connect(&i, 5, l).unwrap();
        let a = clock::now_ns();
        let f1 = free - i.free_bytes();
        let mut lo = c.loan(100).unwrap();
        lo.bytes_mut().fill(1);
        let p = lo.send().unwrap();
        let r = w.receive().unwrap().unwrap();
        let mut rep = r.reply(2000).unwrap();
        rep.bytes_mut().fill(2);
        rep.send().unwrap();
        p.receive().unwrap().unwrap();
        if k % 16 == 0 {
            println!(
                "client {k}: {} us, {} KB; first rt {} us, total {} KB",
                (a - t) / 1000,
                f1 / 1024,
                (clock::now_ns() - a) / 1000,
                (free - i.free_bytes()) / 1024
            );
        }
        v.push(c);
    }
    // single-thread round trip
    let c = &v[0];
    let n = 200000;
    let t = clock::now_ns();
    for _ in 0..n {
        let mut lo = c.loan(100).unwrap();
        lo.bytes_mut()[0] = 1;
        let p = lo.send().unwrap();
        let r = w.receive().unwrap().unwrap();
        let mut rep = r.reply(1632).unwrap();
        rep.bytes_mut()[0] = 1;
        rep.send().unwrap();
        p.receive().unwrap().unwrap();
    }
    println!("one-thread round trip {} ns", (clock::now_ns() - t) / n);
    let out = std::process::Command::new("du")
        .args(["-a", "--apparent-size", "-m", i.path().to_str().unwrap()])
        .output()
        .unwrap();
    println!(
        "{}",
        String::from_utf8_lossy(&out.stdout)
            .lines()
            .filter(|l| l.split('\t').next().unwrap().parse::<u64>().unwrap() > 3)
            .collect::<Vec<_>>()
            .join("\n")
    );
}
