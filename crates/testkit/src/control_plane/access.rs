//! Access to the control plane: keys, tokens, namespaces, roles.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ControlPlane, POLL};

pub(super) const PRIVATE_KEY: &str = "service-account.key";
pub(super) const PUBLIC_KEY: &str = "service-account.pub";
pub(super) const TOKENS: &str = "tokens.csv";

/// The authorizer learns of a new role through a watch, in milliseconds.
const GRANT_LIMIT: Duration = Duration::from_secs(20);
const VERBS: [&str; 3] = ["get", "list", "watch"];

/// Writes the key pair for service accounts and the file with the tokens of all users.
pub(super) fn write_credentials(
    dir: &Path,
    tokens: &[(&'static str, String)],
) -> anyhow::Result<()> {
    let key = rcgen::KeyPair::generate().context("cannot create a key")?;
    std::fs::write(dir.join(PRIVATE_KEY), key.serialize_pem())?;
    std::fs::write(dir.join(PUBLIC_KEY), key.public_key_pem())?;
    let mut lines = String::new();
    for (user, token) in tokens {
        let group = match *user {
            "admin" => "system:masters",
            _ => "testers",
        };
        lines.push_str(&format!("{token},{user},{user},{group}\n"));
    }
    std::fs::write(dir.join(TOKENS), lines)?;
    Ok(())
}

impl ControlPlane {
    /// Creates a namespace.
    ///
    /// # Errors
    /// When the API server refuses, or the namespace exists.
    pub async fn create_namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        let api = Api::all(self.admin_client().await?);
        api.create(&PostParams::default(), &namespace).await?;
        Ok(())
    }

    /// Lets `user` get, list and watch the pods of one namespace by a Role, and waits until it is in effect.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn grant_pods(&self, user: &str, namespace: &str) -> anyhow::Result<()> {
        self.grant(user, namespace, "", "pods").await
    }

    /// Lets `user` get, list and watch a resource in a namespace, as [`ControlPlane::grant_pods`] does.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn grant(
        &self,
        user: &str,
        namespace: &str,
        group: &str,
        resource: &str,
    ) -> anyhow::Result<()> {
        let client = self.admin_client().await?;
        let name = format!("{resource}-{user}");
        let roles: Api<Role> = Api::namespaced(client.clone(), namespace);
        let role = json!({"rules": [rule(group, resource)]});
        apply(&roles, &name, "Role", role).await?;
        let bindings: Api<RoleBinding> = Api::namespaced(client, namespace);
        let binding = binding("Role", &name, user);
        apply(&bindings, &name, "RoleBinding", binding).await?;
        self.wait_allowed(user, Some(namespace), group, resource, true)
            .await
    }

    /// Lets `user` take part in leader election in a namespace: get, create and update Leases, by a
    /// Role, which takes effect within moments.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn grant_leases(&self, user: &str, namespace: &str) -> anyhow::Result<()> {
        let client = self.admin_client().await?;
        let name = format!("leases-{user}");
        let roles: Api<Role> = Api::namespaced(client.clone(), namespace);
        let rule = json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
            "verbs": ["get", "create", "update"]});
        apply(&roles, &name, "Role", json!({"rules": [rule]})).await?;
        let bindings: Api<RoleBinding> = Api::namespaced(client, namespace);
        let binding = binding("Role", &name, user);
        apply(&bindings, &name, "RoleBinding", binding).await
    }

    /// Revokes [`ControlPlane::grant_pods`], and waits until that is in effect.
    ///
    /// # Errors
    /// When the API server refuses, or there was no such grant.
    pub async fn revoke_pods(&self, user: &str, namespace: &str) -> anyhow::Result<()> {
        let client = self.admin_client().await?;
        let bindings: Api<RoleBinding> = Api::namespaced(client, namespace);
        let name = format!("pods-{user}");
        bindings.delete(&name, &DeleteParams::default()).await?;
        self.wait_allowed(user, Some(namespace), "", "pods", false)
            .await
    }

    /// Lets `user` get, list and watch a resource (such as `nodes` of the group `""`) in the whole
    /// cluster by a ClusterRole, and waits until the ClusterRole is in effect.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn grant_cluster(
        &self,
        user: &str,
        group: &str,
        resource: &str,
    ) -> anyhow::Result<()> {
        let client = self.admin_client().await?;
        let name = format!("{resource}-{user}");
        let roles: Api<ClusterRole> = Api::all(client.clone());
        let role = json!({"rules": [rule(group, resource)]});
        apply(&roles, &name, "ClusterRole", role).await?;
        let bindings: Api<ClusterRoleBinding> = Api::all(client);
        let binding = binding("ClusterRole", &name, user);
        apply(&bindings, &name, "ClusterRoleBinding", binding).await?;
        self.wait_allowed(user, None, group, resource, true).await
    }

    async fn wait_allowed(
        &self,
        user: &str,
        namespace: Option<&str>,
        group: &str,
        resource: &str,
        wanted: bool,
    ) -> anyhow::Result<()> {
        let client = self.client(user).await?;
        let deadline = Instant::now() + GRANT_LIMIT;
        while allowed(&client, namespace, group, resource).await? != wanted {
            if Instant::now() > deadline {
                bail!("{user} may list {resource}: not {wanted} within {GRANT_LIMIT:?}");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

async fn allowed(
    client: &Client,
    namespace: Option<&str>,
    group: &str,
    resource: &str,
) -> anyhow::Result<bool> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: namespace.map(str::to_owned),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                verb: Some("list".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let review = api.create(&PostParams::default(), &review).await?;
    Ok(review.status.is_some_and(|status| status.allowed))
}

fn rule(group: &str, resource: &str) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "verbs": VERBS})
}

fn binding(kind: &str, role: &str, user: &str) -> Value {
    json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })
}

async fn apply<K>(api: &Api<K>, name: &str, kind: &str, object: Value) -> anyhow::Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut whole = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name},
    });
    if let (Some(whole), Value::Object(object)) = (whole.as_object_mut(), object) {
        whole.extend(object);
    }
    let parameters = PatchParams::apply("meterline-testkit").force();
    api.patch(name, &parameters, &Patch::Apply(whole)).await?;
    Ok(())
}
