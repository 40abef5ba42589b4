//! Networks and volumes as they are.

use super::convert::{by_label, network, volume};
use super::{Engine, QUICK};
use crate::host::docker::*;
use anyhow::Result;
use bollard::query_parameters::*;
use std::collections::HashMap;

impl Engine {
    pub(super) async fn list_networks(&self, project: &str) -> Result<Vec<NetworkState>> {
        let options = ListNetworksOptions { filters: by_label(LABEL_PROJECT, project) };
        let found = self.call("list networks", QUICK, |api| api.list_networks(Some(options))).await?;
        Ok(found.into_iter().map(network).collect())
    }

    pub(super) async fn list_project_networks(&self) -> Result<Vec<NetworkState>> {
        let filters = HashMap::from([("label".to_owned(), vec![LABEL_PROJECT.to_owned()])]);
        let options = ListNetworksOptions { filters: Some(filters) };
        let found = self.call("list networks", QUICK, |api| api.list_networks(Some(options))).await?;
        Ok(found.into_iter().map(network).collect())
    }

    pub(super) async fn find_network(&self, name: &str) -> Result<Option<String>> {
        // Docker's filter takes a part of a name, too.
        let filters = HashMap::from([("name".to_owned(), vec![name.to_owned()])]);
        let options = ListNetworksOptions { filters: Some(filters) };
        let found = self.call("list networks", QUICK, |api| api.list_networks(Some(options))).await?;
        Ok(found.into_iter().map(network).find(|network| network.name == name).map(|network| network.id))
    }

    pub(super) async fn list_volumes(&self, project: &str) -> Result<Vec<VolumeState>> {
        let options = ListVolumesOptions { filters: by_label(LABEL_PROJECT, project) };
        let found = self.call("list volumes", QUICK, |api| api.list_volumes(Some(options))).await?;
        Ok(found.volumes.unwrap_or_default().into_iter().map(volume).collect())
    }
}
