//! Who may publish, and what is then done: static rules only.

use super::push_url::Values;
use super::{App, Config};
use crate::id::{PublicName, StreamKey};
use crate::limits::STREAM_KEY_BYTES_MAX;
use crate::message::{PublishRequest, RefuseReason};
use crate::plan::{FlvPlan, Plan, PushPlan, thumbnail_path};

impl Config {
    /// Application known, key known, name legal: the plan. Whether the name is taken is for the
    /// caller to say.
    pub fn authorize(&self, request: &PublishRequest) -> Result<Plan, RefuseReason> {
        if !self.apps.contains_key(&request.app) {
            return Err(RefuseReason::UnknownApp);
        }
        let name = self.name_of(&request.key)?;
        self.plan(&request.app, name)
    }

    /// The plan for a name that may publish to `app`.
    pub fn plan(&self, app: &str, name: PublicName) -> Result<Plan, RefuseReason> {
        let settings = self.apps.get(app).ok_or(RefuseReason::UnknownApp)?;
        Ok(Plan {
            pushes: pushes(app, settings, &name),
            hls: settings.hls.as_ref().map(|hls| hls.plan(&self.hls_root(), app, &name)),
            thumbnail: (!self.console.listen.is_empty())
                .then(|| thumbnail_path(&self.hls_root(), app, &name)),
            flv: settings.flv.clone().map(|rungs| FlvPlan { rungs }),
            app: app.to_owned(),
            name,
            limits: settings.limits,
            silence_ms_max: u64::try_from(self.rtmp.silence_timeout.as_millis())
                .unwrap_or(u64::MAX),
            source_log: settings.source_log,
            rungs: settings.rungs.clone(),
            audio: settings.audio,
            blur: settings.blur.clone(),
            record: settings.record.clone(),
        })
    }

    /// The public name a key publishes under.
    fn name_of(&self, key: &StreamKey) -> Result<PublicName, RefuseReason> {
        if key.0.len() > STREAM_KEY_BYTES_MAX {
            return Err(RefuseReason::BadKey);
        }
        if self.keys.is_empty() {
            return PublicName::parse(&key.0).map_err(|_| RefuseReason::BadName);
        }
        self.keys.0.get(key).cloned().ok_or(RefuseReason::BadKey)
    }
}

/// One connection per push and rung.
fn pushes(app: &str, settings: &App, name: &PublicName) -> Vec<PushPlan> {
    let mut pushes = Vec::new();
    for target in &settings.pushes {
        for rung in &target.rungs {
            let Some(plan) = settings.rungs.get(usize::from(rung.0)) else { continue };
            let values = Values { app, name: name.as_str(), rung: &plan.label };
            pushes.push(PushPlan {
                rung: *rung,
                host: target.host.clone(),
                port: target.port,
                app: target.app(values),
                stream: target.stream(values),
            });
        }
    }
    pushes
}
