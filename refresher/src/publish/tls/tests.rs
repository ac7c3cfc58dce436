use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType, date_time_ymd,
};
use tempfile::TempDir;

use super::*;

const NOW: u64 = 1_800_000_000;
const NAME: &str = "spiffe://example.org/envoy";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn params(names: &[SanType]) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params
    }

    fn sign(&self, params: CertificateParams) -> (String, String, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem(), certificate.der().clone())
    }

    /// Files of the refresher's certificate, and settings that name them.
    fn settings(&self, directory: &Path) -> PublishTls {
        let (certificate, key, _) = self.sign(Self::params(&[uri("spiffe://example.org/r")]));
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            path
        };
        PublishTls {
            listen: "127.0.0.1:0".parse().unwrap(),
            certificate: write("tls.crt", &certificate),
            private_key: write("tls.key", &key),
            client_ca: write("ca.crt", &self.0.pem()),
            allowed_names: vec![NAME.parse().unwrap()],
        }
    }
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

fn refused(settings: &PublishTls, unix: u64) -> String {
    let error = Tls::load(settings, unix).unwrap_err();
    chain::line(&error)
}

#[test]
fn only_a_name_that_is_allowed_in_a_certificate_that_holds_is_let_in() {
    let directory = TempDir::new().unwrap();
    let (authority, foreign) = (Authority::new(), Authority::new());
    let tls = Tls::load(&authority.settings(directory.path()), NOW).unwrap();
    let admit = |certificate: CertificateDer<'static>| tls.admit(&[certificate], NOW);

    let (_, _, own) = authority.sign(Authority::params(&[uri("spiffe://a/b"), uri(NAME)]));
    assert_eq!(admit(own.clone()), Ok(NAME.to_owned()));
    assert!(matches!(tls.admit(&[], NOW), Err(Refusal::Certificate(_))));
    // Its time ends while its connection is open.
    let mut short = Authority::params(&[uri(NAME)]);
    short.not_after = date_time_ymd(2027, 1, 1);
    let (_, _, short) = authority.sign(short);
    assert!(tls.admit(std::slice::from_ref(&short), 1_790_000_000).is_ok());
    assert!(matches!(admit(short), Err(Refusal::Certificate(_))));

    let (_, _, other) = foreign.sign(Authority::params(&[uri(NAME)]));
    assert!(matches!(admit(other), Err(Refusal::Certificate(_))));
    let mut server = Authority::params(&[uri(NAME)]);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert!(matches!(admit(authority.sign(server).2), Err(Refusal::Certificate(_))));
    let dns = SanType::DnsName("spiffe.example.org".try_into().unwrap());
    for names in [&[][..], &[dns][..], &[uri("spiffe://example.org/envoy/2")][..]] {
        let (_, _, other) = authority.sign(Authority::params(names));
        assert!(matches!(admit(other), Err(Refusal::Name(_))), "{names:?}");
    }
    // A common name is no name.
    let mut common = Authority::params(&[]);
    common.distinguished_name.push(DnType::CommonName, NAME);
    assert!(matches!(admit(authority.sign(common).2), Err(Refusal::Name(_))));
}

#[test]
fn a_key_that_others_can_read_is_refused_and_a_mounted_one_is_not() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new();
    let settings = authority.settings(directory.path());
    let set = |mode| {
        std::fs::set_permissions(&settings.private_key, Permissions::from_mode(mode)).unwrap();
    };
    let root = rustix::process::geteuid().is_root();
    for (mode, good) in
        [(0o600, true), (0o400, true), (0o640, root), (0o440, root), (0o644, false), (0o660, false)]
    {
        set(mode);
        let loaded = Tls::load(&settings, NOW);
        assert_eq!(loaded.is_ok(), good, "{mode:o}: {loaded:?}");
        if let Err(error) = loaded {
            let error = chain::line(&error);
            assert!(error.contains("publish.private_key: "), "{error}");
            assert!(error.contains("others can read this secret; accepted:"), "{error}");
        }
    }
    // As Kubernetes mounts a secret: a link to a link to a directory that is replaced whole.
    set(0o400);
    let volume = directory.path().join("volume");
    std::fs::create_dir_all(volume.join("..2027")).unwrap();
    symlink("..2027", volume.join("..data")).unwrap();
    let mut mounted = settings.clone();
    for path in [&mut mounted.certificate, &mut mounted.private_key, &mut mounted.client_ca] {
        let name = path.file_name().unwrap().to_owned();
        std::fs::copy(&*path, volume.join("..2027").join(&name)).unwrap();
        symlink(Path::new("..data").join(&name), volume.join(&name)).unwrap();
        *path = volume.join(name);
    }
    assert!(Tls::load(&mounted, NOW).is_ok());
}

#[test]
fn what_cannot_be_used_is_named_with_what_could() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new();
    let settings = authority.settings(directory.path());
    let file = |name: &str| directory.path().join(name);
    std::fs::write(file("empty"), "").unwrap();
    std::fs::write(file("cut"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    let other = Authority::new().sign(Authority::params(&[])).1;
    std::fs::write(file("other.key"), other).unwrap();
    std::fs::set_permissions(file("other.key"), Permissions::from_mode(0o600)).unwrap();

    type Change = fn(&mut PublishTls, PathBuf);
    let certificate: Change = |settings, path| settings.certificate = path;
    let key: Change = |settings, path| settings.private_key = path;
    let authorities: Change = |settings, path| settings.client_ca = path;
    for (change, name, said) in [
        (certificate, "nowhere", "publish.certificate: "),
        (certificate, "empty", "accepted: a PEM file with at least one certificate"),
        (certificate, "cut", "accepted: a PEM file with at least one certificate"),
        (certificate, ".", "not a file of at most 1 MiB"),
        (authorities, "nowhere", "publish.client_ca: "),
        (authorities, "tls.key", "no certificate in it"),
        (key, "nowhere", "publish.private_key: "),
        (key, "other.key", "accepted: the key of publish.certificate"),
    ] {
        let mut changed = settings.clone();
        change(&mut changed, file(name));
        let error = refused(&changed, NOW);
        assert!(error.contains(said), "{name}: {error}");
    }

    let mut old = Authority::params(&[uri("spiffe://example.org/r")]);
    old.not_after = date_time_ymd(2027, 1, 1);
    let (certificate, key, _) = authority.sign(old);
    std::fs::write(&settings.certificate, certificate).unwrap();
    std::fs::write(&settings.private_key, key).unwrap();
    assert_eq!(Tls::load(&settings, 1_790_000_000).unwrap().not_after, 1_798_761_600);
    let error = refused(&settings, NOW);
    assert!(error.contains("expired at") && error.contains("2027"), "{error}");
}
