//! The part of a plan that is LVM's: physical volumes, groups, volumes.

use super::{ALIGNMENT, Act, World};
use crate::env::layout::{Layout, Volume, VolumeSize};
use crate::prepare::storage::seen::{Content, Group};
use crate::value::{Device, Size, VolumeName};

/// LVM's extents, unless told otherwise, in bytes.
const EXTENT: u64 = 4 << 20;

impl World {
    pub(super) fn lvm(&mut self, layout: &Layout) {
        let mut devices = layout.physical.clone();
        devices.extend(layout.groups.iter().flat_map(|group| group.devices.iter().cloned()));
        devices.dedup();
        let mut unknown = Vec::new();
        for device in &devices {
            match self.content(device, "a physical volume of LVM") {
                Some(Content::Nothing) => {
                    self.acts.push(Act::Physical(device.clone()));
                    let size = self.size(device);
                    self.set(device, size, Content::Signature { kind: "LVM2_member".into(), label: None });
                }
                Some(Content::Signature { kind, .. }) if kind == "LVM2_member" => {}
                Some(Content::Unknown) => unknown.push(device.clone()),
                Some(other) => self.refuse(device, "made a physical volume of LVM", &other),
                None => {}
            }
        }
        for group in &layout.groups {
            // What lies on a device that is not open yet is seen when it is.
            if group.devices.iter().any(|device| unknown.contains(device)) {
                let volumes = layout.volumes.iter().filter(|volume| volume.group == group.name);
                for device in volumes.flat_map(|volume| Device::logical(&volume.group, &volume.name)) {
                    self.set(&device, Size(0), Content::Unknown);
                }
                continue;
            }
            self.group(&group.name, &group.devices);
        }
        for volume in &layout.volumes {
            if !Device::logical(&volume.group, &volume.name).iter().any(|device| self.is_unknown(device)) {
                self.volume(volume);
            }
        }
    }

    fn is_unknown(&self, device: &Device) -> bool {
        self.seen.blocks.get(device).is_some_and(|block| block.content == Content::Unknown)
    }

    fn group(&mut self, name: &VolumeName, devices: &[Device]) {
        let of = |world: &World, device: &Device| {
            world.seen.real.get(device).and_then(|real| world.seen.physical.get(real)).cloned().unwrap_or_default()
        };
        let is_there = self.seen.groups.contains_key(name.as_str());
        let mut added = 0;
        for device in devices {
            let group = of(self, device);
            if !group.is_empty() && group != name.as_str() {
                self.problem(format!("{device} belongs to the group {group}, not to {name}; nothing was changed"));
            } else if is_there && group.is_empty() {
                self.acts.push(Act::ExtendGroup { name: name.clone(), device: device.clone() });
                added += self.size(device).0;
            }
        }
        // LVM keeps some of each device for itself.
        let usable = |device: &Device| self.size(device).0.saturating_sub(ALIGNMENT) / EXTENT * EXTENT;
        if !is_there {
            let size: u64 = devices.iter().map(usable).sum();
            self.seen.groups.insert(name.to_string(), Group { size: Size(size), free: size, extent: EXTENT });
            self.acts.push(Act::CreateGroup { name: name.clone(), devices: devices.to_vec() });
        } else if let Some(group) = self.seen.groups.get_mut(name.as_str()) {
            group.size.0 += added;
            group.free += added;
        }
    }

    fn volume(&mut self, volume: &Volume) {
        let devices = Device::logical(&volume.group, &volume.name);
        let Some(group) = self.seen.groups.get(volume.group.as_str()).copied() else {
            return self.problem(format!("there is no group {} for the volume {}", volume.group, volume.name));
        };
        let extents = |bytes: u64| bytes.div_ceil(group.extent.max(1)) * group.extent.max(1);
        let part =
            |whole: u64, percent: u8| whole / 100 * u64::from(percent) / group.extent.max(1) * group.extent.max(1);
        let wanted = match volume.size {
            VolumeSize::Bytes(size) => extents(size.0),
            VolumeSize::OfFree(percent) => part(group.free, percent),
            VolumeSize::OfGroup(percent) => part(group.size.0, percent),
        };
        let is = self.seen.volumes.get(&(volume.group.to_string(), volume.name.to_string())).copied();
        let more = match is {
            Some(_) if !volume.expand => 0,
            Some(is) => wanted.saturating_sub(is.size.0),
            None => wanted,
        };
        if more > group.free || is.is_none() && wanted == 0 {
            let text = format!(
                "needs {} more, but the group {} has {} left",
                Size(more.max(1)),
                volume.group,
                Size(group.free.max(1))
            );
            return self.problem(format!("the volume {} {text}", volume.name));
        }
        if let Some(group) = self.seen.groups.get_mut(volume.group.as_str()) {
            group.free -= more;
        }
        match is {
            None => {
                self.acts.push(Act::CreateVolume(volume.clone()));
                devices.iter().for_each(|device| self.set(device, Size(wanted), Content::Nothing));
            }
            Some(is) if !is.is_active => {
                self.acts.push(Act::Activate(volume.clone()));
                devices.iter().for_each(|device| self.set(device, is.size, Content::Unknown));
            }
            Some(is) if more > 0 => {
                self.acts.push(Act::GrowVolume { volume: volume.clone(), from: is.size, to: Size(wanted) });
            }
            Some(_) => {
                let making = self.seen.making.as_ref().filter(|making| making.uuid.is_empty());
                if making.is_some_and(|making| devices.contains(&making.device)) {
                    self.acts.push(Act::GrowFileSystem(volume.clone()));
                }
            }
        }
    }
}
